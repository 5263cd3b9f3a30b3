"""Subspaces of M_b B for one basis B and a batch of diagonals M_b, without anything of size batch × d × d.

All samples share the matrix; only the diagonal differs. The Gram matrix BᵀM_b²B of every sample is then one product
of the squared diagonals with the products of B's columns, which depend on B alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

CHUNK = 2**22  # entries of the Gram matrices held at a time


@dataclass(frozen=True)
class MaskedBasis:
    """A basis B [d, r], not necessarily orthonormal, ready to be masked sample by sample."""

    basis: Tensor
    products: Tensor
    """[d, r(r+1)/2]: products of pairs of columns."""

    @classmethod
    def of(cls, basis: Tensor) -> "MaskedBasis":
        i, j, _ = _pairs(basis.shape[1], basis.device)
        return cls(basis, basis.index_select(1, i).mul_(basis.index_select(1, j)))

    def chunks(self, diagonal: Tensor, z: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Diagonals [batch, d] and noise [batch, ...] in parts whose Gram matrices fit into CHUNK entries."""
        size = max(1, CHUNK // self.basis.shape[1] ** 2)
        return zip(diagonal.split(size), z.split(size), strict=True)

    def gram(self, diagonal: Tensor) -> Tensor:
        """BᵀM_b²B: diagonals [batch, d] -> [batch, r, r]."""
        r = self.basis.shape[1]
        _, _, position = _pairs(r, diagonal.device)
        return ((diagonal * diagonal) @ self.products).index_select(1, position).unflatten(1, (r, r))

    def combine(self, diagonal: Tensor, coordinates: Tensor) -> Tensor:
        """M_b B u_b: diagonals [batch, d], coordinates [batch, r] or [batch, r, columns] -> [batch, d(, columns)]."""
        if coordinates.dim() == 2:
            return (coordinates @ self.basis.T).mul_(diagonal)
        return (self.basis @ coordinates).mul_(diagonal.unsqueeze(-1))


@lru_cache(maxsize=16)
def _pairs(r: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the upper triangle of an r × r matrix, and where each entry stands in that list."""
    i, j = torch.triu_indices(r, r, device=device)
    position = torch.empty(r, r, dtype=torch.long, device=device)
    position[i, j] = position[j, i] = torch.arange(len(i), device=device)
    return i, j, position.flatten()


def whiten(gram: Tensor, z: Tensor, tolerance: float | None = None) -> Tensor:
    """u = T z with T Tᵀ = gram⁺, so that B u has the covariance of a projector if gram = BᵀB and Cov(z) = I.

    gram [batch, r, r], z [batch, r] or [batch, r, columns]; u has the shape of z. A Cholesky factor serves; samples
    where it does not exist to working precision (dependent columns, an all-zero mask) get the pseudo-inverse from an
    eigendecomposition in float64. Eigenvalues below `tolerance` of the largest count as zero: `rounding` of gram's
    own precision unless its entries are known to another.
    """
    columns = z.unsqueeze(-1) if z.dim() == 2 else z
    tolerance = rounding(gram) if tolerance is None else tolerance
    factor, _ = torch.linalg.cholesky_ex(gram)
    u = torch.linalg.solve_triangular(factor.mT, columns, upper=True)
    pivots = factor.diagonal(dim1=1, dim2=2)
    sound = pivots.square().amin(1) > 64 * tolerance * gram.diagonal(dim1=1, dim2=2).amax(1)
    if not bool(sound.all()):  # also where the factorisation failed and left NaN
        weak = (~sound).nonzero().squeeze(1)
        u[weak] = _pseudo_inverse_root(gram[weak], tolerance) @ columns[weak]
    return u.squeeze(-1) if z.dim() == 2 else u


def rounding(gram: Tensor) -> float:
    """What is known of the eigenvalues of a computed Gram matrix [batch, r, r], relative to the largest."""
    return 8 * gram.shape[-1] * torch.finfo(gram.dtype).eps


def _pseudo_inverse_root(gram: Tensor, tolerance: float) -> Tensor:
    """T [batch, r, r] with T Tᵀ = gram⁺."""
    device = torch.device("cpu") if gram.device.type == "mps" else gram.device
    values, vectors = torch.linalg.eigh(gram.to(device, torch.float64))
    kept = values > tolerance * values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    scale = torch.where(kept, values, 1).rsqrt() * kept
    return (vectors * scale.unsqueeze(1)).to(gram)


def whiten_top(gram: Tensor, z: Tensor, power_steps: int) -> Tensor:
    """As `whiten`, within the top-k Ritz space of every sample: gram [batch, r, r], z [batch, k(, columns)], k < r.

    u [batch, r(, columns)] = X T z, where the k columns of X come from `power_steps` block power steps from the first
    k coordinates, orthonormal between the steps. The space is off the top-k eigenvectors by about
    (λ_{k+1} / λ_k)^power_steps; with none it is the first k coordinates. Computed in float64 where the device has it
    (on the CPU, matrices this small take no longer): a power step squares the spread of the eigenvalues.
    """
    k, known = z.shape[1], rounding(gram)
    wide = gram if gram.device.type == "mps" else gram.double()
    columns = (z.unsqueeze(-1) if z.dim() == 2 else z).to(wide.dtype)
    if power_steps == 0:
        u = torch.zeros(len(z), gram.shape[-1], columns.shape[2], dtype=wide.dtype, device=z.device)
        u[:, :k] = whiten(wide[:, :k, :k], columns, known)
    else:
        identity = torch.eye(k, dtype=wide.dtype, device=z.device).expand(len(z), k, k)
        x = wide[:, :, :k]
        for _ in range(power_steps - 1):
            x = wide @ (x @ whiten(x.mT @ x, identity, known**2))
        orthonormal = whiten(x.mT @ x, identity, known**2)
        ritz = orthonormal.mT @ (x.mT @ (wide @ x)) @ orthonormal
        u = x @ (orthonormal @ whiten(ritz, columns, known))
    u = u.to(z.dtype)
    return u.squeeze(-1) if z.dim() == 2 else u
