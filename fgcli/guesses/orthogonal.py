"""W̃⊥ and its control W̃⊥-bottom (Sec. 3.1 of "Towards Scalable Backpropagation-Free Gradient Estimation").

y = W̃'ᵀε with W̃' = U_k V_kᵀ has the law of y = V_k z, z ~ N(0, I_k): U is never needed, and any orthonormal basis of
the same subspace gives the same law. By the chain rule g lies in Im(W̃ᵀ), so k = rank(W̃) is exactly unbiased and a
smaller k has the bias -(I - V_k V_kᵀ) g and nothing else. (The paper reads an identity covariance as necessary for
that; it is only sufficient.)

Five solvers. `svd` is the paper's. `shared` guesses in span(M_b V), V the top-k right singular vectors of the
unmasked W: a sibling of W̃⊥, not an approximation of it. `ritz` finds each sample's top-k singular vectors within the
span of M_b V_r, r > k; with r = rank(W) and enough power steps that is W̃⊥ itself. Neither of the two allocates
anything of size batch × d × d, and both guess within Im(W̃ᵀ) exactly. `krylov` knows W̃ by its products alone, and so
runs in any network (fgcli/guesses/krylov.py); `auto` is `ritz` where the layer above is linear, `krylov` elsewhere.
`mean` is another sibling, at one product a guess, in any network (fgcli/guesses/mean_space.py).
"""

from typing import ClassVar

import torch
from torch import Tensor

from fgcli.gradient.guess import LinearGuess, Needs
from fgcli.gradient.sites import Site
from fgcli.gradient.upstream import LinearUpstream
from fgcli.guesses.krylov import OrthogonalKrylov
from fgcli.guesses.mean_space import OrthogonalMean
from fgcli.guesses.options import OrthogonalBottomOptions, OrthogonalOptions
from fgcli.guesses.per_site import PerSite
from fgcli.spectra.dense import right_singular_vectors
from fgcli.spectra.masked import MaskedBasis
from fgcli.spectra.tracking import has_full_column_rank, image_of, leading_left_vectors


def orthogonal(options: OrthogonalOptions) -> LinearGuess:
    """W̃⊥ by the solver asked for."""
    match options.solver:
        case "auto":
            return PerSite(OrthogonalTracked(options), OrthogonalKrylov(options))
        case "ritz" | "shared":
            return OrthogonalTracked(options)
        case "mean":
            return OrthogonalMean(options)
        case "krylov":
            return OrthogonalKrylov(options)
        case "svd":
            return OrthogonalSVD(options)


class OrthogonalSVD:
    """y = V_k z: N(0, projector onto the top-k right singular vectors of each sample's W̃)."""

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k = options.k

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return _capped(self.k, site)

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        vectors, rank = right_singular_vectors(site.upstream.dense())
        k = z.shape[1]
        kept = torch.arange(k, device=z.device) < rank.unsqueeze(1)  # k is capped per sample at rank(W̃_b)
        return _columns(vectors[:, :, :k] * kept.unsqueeze(1), z)


class OrthogonalTracked:
    """y ~ N(0, projector onto a k-dimensional space within span(M_b R)), R = WᵀQ with Q tracked for W.

    With k = rank and W of full column rank, Im(W̃ᵀ) is the space of the active units, and y = M_b z needs no R.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k = options.k
        shared = options.solver == "shared"
        self.oversampling = 1 if shared else options.oversampling
        self.power_steps = 0 if shared else options.power_steps
        self.refresh = options.refresh

    def prepare(self, site: Site) -> MaskedBasis | None:
        weight = site.next_weight
        if self._spans_active_units(site):
            return None
        left = site.warm_start("left")
        if left is None or site.step % self.refresh == 0:
            r = _capped(self.k, site) * self.oversampling
            left = site.memory["left"] = leading_left_vectors(weight, r, start=left)
        return MaskedBasis.of(image_of(weight, left))

    def _spans_active_units(self, site: Site) -> bool:
        """Whether k is the rank and W has full column rank, looked at whenever the tracked space would be."""
        if _capped(self.k, site) < site.next_weight.shape[1]:
            return False
        known = site.memory.get("full_rank")
        if known is None or site.step % self.refresh == 0:
            known = site.memory["full_rank"] = torch.tensor(has_full_column_rank(site.next_weight))
        return bool(known)

    def noise_dim(self, site: Site, prepared: MaskedBasis | None) -> int:
        return _capped(self.k, site)

    def map(self, site: Site, prepared: MaskedBasis | None, z: Tensor) -> Tensor:
        slope = site.linear_upstream.slope
        if prepared is None:
            active = (slope != 0).to(z.dtype)
            return z * (active if z.dim() == 2 else active.unsqueeze(-1))
        return prepared.projected(slope, z, self.power_steps)


class OrthogonalBottom:
    """y = V_k z with the k smallest singular values of the reduced SVD, zeros among them. A control, not a method.

    Where at least k of them are 0 because so many units are inactive, which vectors belong to them is nobody's choice:
    any k-dimensional space of inactive units will do, and is found without an SVD.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: OrthogonalBottomOptions) -> None:
        self.k = options.k

    def prepare(self, site: Site) -> MaskedBasis:
        weight = site.next_weight
        generator = torch.Generator().manual_seed(0)
        basis = torch.randn(weight.shape[1], _capped(self.k, site), generator=generator, dtype=torch.float64)
        return MaskedBasis.of(basis.to(weight))

    def noise_dim(self, site: Site, prepared: MaskedBasis) -> int:
        return _capped(self.k, site)

    def map(self, site: Site, prepared: MaskedBasis, z: Tensor) -> Tensor:
        upstream, k = site.linear_upstream, z.shape[1]
        inactive = upstream.slope == 0
        zeros = min(site.next_weight.shape) - (~inactive).sum(1)  # at least so many singular values are 0
        easy = zeros >= k
        y = z.new_empty(len(z), inactive.shape[1], *z.shape[2:])
        y[easy] = prepared.projected(inactive[easy].to(z.dtype), z[easy])
        if not easy.all():
            rest = LinearUpstream(upstream.weight, upstream.slope[~easy])
            y[~easy] = _columns(right_singular_vectors(rest.dense())[0][:, :, -k:], z[~easy])
        return y


def _capped(k: int | str, site: Site) -> int:
    """k, at most what the shape of W allows; `rank` is that."""
    largest = min(site.next_weight.shape)
    return largest if isinstance(k, str) else min(k, largest)


def _columns(vectors: Tensor, z: Tensor) -> Tensor:
    """V_b z_b: [batch, d, k] and [batch, k(, columns)] -> [batch, d(, columns)]."""
    return (vectors @ z.unsqueeze(-1)).squeeze(-1) if z.dim() == 2 else vectors @ z
