"""Layer downstream (Singhal et al. 2023, "How to guess a gradient", arXiv:2312.04709): the chain rule unrolled further.

g_i = W̃ᵀ_{i+1} g_{i+1} = W̃ᵀ_{i+1} W̃ᵀ_{i+2} g_{i+2} = …; `wt` puts noise in the place of g_{i+1}, this method in the
place of g_{i+m}.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from fg_plugin_singhal import DownstreamOptions
from fgcli import (
    Batch,
    Coverage,
    Estimate,
    GuessEstimator,
    GuessMethod,
    Layer,
    LinearMap,
    Loss,
    StepRng,
    UpstreamJacobian,
)


class LayerDownstream:
    """y_i = W̃ᵀ_{i+1} ⋯ W̃ᵀ_{i+m} z with z ~ N(0, I), where m layers are left below the output, else as many as are.

    An estimator and no guess method, since the Jacobians further down are known only after a forward pass: there are
    two of them, the first without tangents. Settled here: each site draws noise of its own, not one for all; the
    output layer's guess is N(0, I), as for every method of fg. At m = the depth all noise is drawn at the output.
    """

    def __init__(self, options: DownstreamOptions) -> None:
        self._one_layer = GuessEstimator(_OneLayer())
        self._guess = _SeveralLayers(options.layers)
        self._engine = GuessEstimator(self._guess, uncovered=options.uncovered)

    def bind(self, model: nn.Module, example: Any) -> Coverage:
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


class _OneLayer(GuessMethod):
    """y = W̃ᵀ z."""

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        return LinearMap(upstream.output_dim, upstream.apply_transpose)


class _SeveralLayers(_OneLayer):
    """The product of the W̃ᵀ of a site and of those after it. While none but its own is known, W̃ᵀ of that."""

    def __init__(self, layers: int) -> None:
        self.layers = layers
        self.sites: Sequence[str] = ()
        """In the order of the forward pass; the last is the output layer, which has no W̃."""
        self.jacobians: Mapping[str, LinearMap] = {}

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        if not self.jacobians:  # when the engine is bound
            return super().linearize(layer, upstream, prepared)
        first = self.sites.index(layer.name)
        passed = self.sites[first : min(first + self.layers, len(self.sites) - 1)]
        maps = [self.jacobians[name] for name in reversed(passed)]

        def sent_back(z: Tensor) -> Tensor:
            for one in maps:
                z = one.map(z)
            return z

        return LinearMap(maps[0].noise_dim, sent_back)
