"""The guess method example."""

from torch import Tensor

from fg_plugin_example import ExampleOptions
from fgcli import GuessMethod, Layer, LinearMap, UpstreamJacobian


class Example(GuessMethod):
    """y = √share · z₁ + √(1 - share) · W̃ᵀz₂, so that Cov(y) = share · I + (1 - share) · W̃ᵀW̃."""

    def __init__(self, options: ExampleOptions) -> None:
        self.share = options.share

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        def mixed(z: Tensor) -> Tensor:
            white, above = z.split([layer.dim, upstream.output_dim], dim=1)
            return self.share**0.5 * white + (1 - self.share) ** 0.5 * upstream.apply_transpose(above)

        return LinearMap(layer.dim + upstream.output_dim, mixed)
