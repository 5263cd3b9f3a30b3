"""W̃ᴾ: the guess of W̃ᵀ, preconditioned to be unbiased (Sec. 3.3 of "Towards Scalable Backpropagation-Free ...")."""

from typing import ClassVar

from torch import Tensor

from fgcli.extend.options import GuessOptions
from fgcli.gradient.guess import Needs
from fgcli.gradient.sites import Site
from fgcli.spectra.masked import MaskedBasis


class Preconditioned:
    """y = W̃'ᵀ ε with W̃'ᵀ = (W̃_σᵀW̃_σ)^{-1/2} W̃_σᵀ (Eq. 12), where every singular value of W̃' is 1.

    With the reduced SVD W̃ = U S Vᵀ this is V Uᵀ ε: σ cancels (Eq. 15), and y has the law of V z, z ~ N(0, I). Where
    d_out >= d_in, V is square and y ~ N(0, I), whatever W̃ is. Where d_out < d_in (the layer before the output), the
    paper's identity covariance is out of reach; y ~ N(0, projector onto Im(W̃ᵀ)), which contains g, so that the guess
    is unbiased there too. Nothing of the SVD is ever computed.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: GuessOptions) -> None:
        pass

    def prepare(self, site: Site) -> MaskedBasis | None:
        d_out, d_in = site.next_weight.shape
        return MaskedBasis.of(site.next_weight.T) if d_out < d_in else None

    def noise_dim(self, site: Site, prepared: MaskedBasis | None) -> int:
        return min(site.next_weight.shape)

    def map(self, site: Site, prepared: MaskedBasis | None, z: Tensor) -> Tensor:
        if prepared is None:
            return z.clone()
        return prepared.projected(site.linear_upstream.slope, z)
