"""W̃ᴾ: the guess of W̃ᵀ, preconditioned to be unbiased (Sec. 3.3 of "Towards Scalable Backpropagation-Free ...")."""

from typing import ClassVar

from torch import Tensor

from fgcli.gradient.guess import LinearGuess, Needs
from fgcli.gradient.sites import Site
from fgcli.guesses.options import PreconditionedOptions
from fgcli.guesses.per_site import PerSite
from fgcli.spectra.least_squares import project_onto_rows
from fgcli.spectra.masked import MaskedBasis


def preconditioned(options: PreconditionedOptions) -> LinearGuess:
    """W̃ᴾ by the matrix where there is one, by products with W̃ elsewhere."""
    return PerSite(Preconditioned(), PreconditionedByProducts(options))


class Preconditioned:
    """y = W̃'ᵀ ε with W̃'ᵀ = (W̃_σᵀW̃_σ)^{-1/2} W̃_σᵀ (Eq. 12), where every singular value of W̃' is 1.

    With the reduced SVD W̃ = U S Vᵀ this is V Uᵀ ε: σ cancels (Eq. 15), and y has the law of V z, z ~ N(0, I). Where
    d_out >= d_in, V is square and y ~ N(0, I), whatever W̃ is. Where d_out < d_in (the layer before the output), the
    paper's identity covariance is out of reach; y ~ N(0, projector onto Im(W̃ᵀ)), which contains g, so that the guess
    is unbiased there too. Nothing of the SVD is ever computed.
    """

    needs: ClassVar[Needs] = "matrix"

    def prepare(self, site: Site) -> MaskedBasis | None:
        d_out, d_in = site.next_weight.shape
        return MaskedBasis.of(site.next_weight.T) if d_out < d_in else None

    def noise_dim(self, site: Site, prepared: MaskedBasis | None) -> int:
        return min(site.next_weight.shape)

    def map(self, site: Site, prepared: MaskedBasis | None, z: Tensor) -> Tensor:
        if prepared is None:
            return z.clone()
        return prepared.projected(site.linear_upstream.slope, z)


class PreconditionedByProducts:
    """The same law from z ~ N(0, I) in the space of s: y = z where d_out >= d_in, else y = W̃⁺W̃ z.

    The projection comes from conjugate gradients, which are linear in z as far as they have converged; all their
    iterates lie in Im(W̃ᵀ).
    """

    needs: ClassVar[Needs] = "operator"

    def __init__(self, options: PreconditionedOptions) -> None:
        self.iterations = options.iterations

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return site.dim

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        upstream = site.upstream
        return (
            z.clone() if upstream.output_dim >= upstream.input_dim else project_onto_rows(upstream, z, self.iterations)
        )
