"""W̃ᵀ (Singhal et al. 2023, "How to guess a gradient", arXiv:2312.04709)."""

from typing import ClassVar

from torch import Tensor

from fgcli.extend.options import GuessOptions
from fgcli.gradient.guess import Needs
from fgcli.gradient.sites import Site


class Transpose:
    """y = W̃ᵀ ε with ε ~ N(0, I) (Eq. 4 of the W̃⊥ paper): Cov(y) = W̃ᵀW̃, biased unless that is I on Im(W̃ᵀ)."""

    needs: ClassVar[Needs] = "operator"

    def __init__(self, options: GuessOptions) -> None:
        pass

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return site.upstream.output_dim

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return site.upstream.apply_transpose(z)
