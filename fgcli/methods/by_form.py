"""One method, two ways: by the matrix where W̃ has that form, by products with W̃ anywhere else."""

from typing import Any

from fgcli.gradient.estimator import SettlesOptions
from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory
from fgcli.gradient.upstream import UpstreamJacobian


class ByForm(GuessMethod):
    """`by_matrix` at sites below a linear layer behind an elementwise activation, `by_products` at the others."""

    def __init__(self, by_matrix: GuessMethod, by_products: GuessMethod) -> None:
        self.by_matrix, self.by_products = by_matrix, by_products
        self.in_trial = getattr(by_products, "in_trial", self)
        self.reads_output = by_products.reads_output
        self.first_samples = max(by_matrix.first_samples, by_products.first_samples)
        if isinstance(by_matrix, SettlesOptions):
            self.settled_options = by_matrix.settled_options

    def prepare(self, layer: Layer, memory: Memory) -> Any:
        return self._at(layer).prepare(layer, memory)

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: Any) -> LinearMap:
        return self._at(layer).linearize(layer, upstream, prepared)

    def _at(self, layer: Layer) -> GuessMethod:
        return self.by_products if layer.next_weight is None else self.by_matrix
