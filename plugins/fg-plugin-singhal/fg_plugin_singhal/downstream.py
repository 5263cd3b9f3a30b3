"""Layer downstream (Singhal et al. 2023, "How to guess a gradient", arXiv:2312.04709): the chain rule unrolled further.

g_i = W̃ᵀ_{i+1} g_{i+1} = W̃ᵀ_{i+1} W̃ᵀ_{i+2} g_{i+2} = …; `wt` puts noise in the place of g_{i+1}, this method in the
place of g_{i+m}.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from fg_plugin_singhal import DownstreamOptions
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.forward_gradient import ForwardGradient, LinearMap
from fgcli.gradient.guess import Needs
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.sites import Site


class LayerDownstream:
    """y_i = W̃ᵀ_{i+1} ⋯ W̃ᵀ_{i+m} z with z ~ N(0, I), where m layers are left below the output, else as many as are.

    An estimator and no guess method, since the Jacobians further down are known only after a forward pass: there are
    two of them, the first without tangents. Settled here: each site draws noise of its own, not one for all; the
    output layer's guess is N(0, I), as for every method of fg. At m = the depth all noise is drawn at the output.
    """

    def __init__(self, options: DownstreamOptions) -> None:
        self._one_layer = ForwardGradient(_OneLayer())
        self._guess = _SeveralLayers(options.layers)
        self._engine = ForwardGradient(self._guess, options.uncovered)

    def bind(self, model: nn.Module, example: Tensor) -> Coverage:
        self._one_layer.bind(model, example)
        coverage = self._engine.bind(model, example)
        self._guess.sites = coverage.sites
        return coverage

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        self._guess.jacobians = self._one_layer.linear_maps(model, batch.inputs, rng.step)
        try:
            return self._engine.estimate(model, loss, batch, rng)
        finally:
            self._guess.jacobians = {}  # they hold the batch

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass


class _OneLayer:
    """y = W̃ᵀ z."""

    needs: ClassVar[Needs] = "operator"

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return site.upstream.output_dim

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return site.upstream.apply_transpose(z)


class _SeveralLayers:
    """The product of the W̃ᵀ of a site and of those after it."""

    needs: ClassVar[Needs] = "operator"

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.sites: Sequence[str] = ()
        """In the order of the forward pass; the last is the output layer, which has no W̃."""
        self.jacobians: Mapping[str, LinearMap] = {}

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return self.jacobians[self._passed(site)[-1]].noise_dim

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        for name in reversed(self._passed(site)):
            z = self.jacobians[name].map(z)
        return z

    def _passed(self, site: Site) -> Sequence[str]:
        first = self.sites.index(site.name)
        return self.sites[first : min(first + self.layers, len(self.sites) - 1)]
