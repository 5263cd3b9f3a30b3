"""Activation perturbation (Ren et al. 2023, arXiv:2210.03310), plain and masked by the layer's own activation."""

from typing import ClassVar

from torch import Tensor

from fgcli.extend.options import GuessOptions
from fgcli.gradient.guess import Isotropic, Needs
from fgcli.gradient.sites import Site


class ActivationPerturbation(Isotropic):
    """y ~ N(0, I): unbiased, with the variance of the layer's full width."""

    def __init__(self, options: GuessOptions) -> None:
        pass


class MaskedActivationPerturbation:
    """y = M z: N(0, I) where the layer's own ReLU is active (Singhal et al. 2023, arXiv:2312.04709).

    Unbiased for ReLU, since g is 0 where M is. For another activation M is where its slope is not 0.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: GuessOptions) -> None:
        pass

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return site.shape[0]

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        mask = (site.linear_upstream.slope != 0).to(z.dtype)
        return z * (mask if z.dim() == 2 else mask.unsqueeze(-1))
