"""The guess method example."""

from typing import ClassVar

from torch import Tensor

from fg_plugin_example import ExampleOptions
from fgcli.gradient.guess import Needs
from fgcli.gradient.sites import Site


class Example:
    """y = √share · z₁ + √(1 - share) · W̃ᵀz₂, so that Cov(y) = share · I + (1 - share) · W̃ᵀW̃."""

    needs: ClassVar[Needs] = "operator"

    def __init__(self, options: ExampleOptions) -> None:
        self.share = options.share

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return site.dim + site.upstream.output_dim

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        white, above = z.split([site.dim, site.upstream.output_dim], dim=1)
        return self.share**0.5 * white + (1 - self.share) ** 0.5 * site.upstream.apply_transpose(above)
