"""One method, two ways: by the matrix where the layer above is linear, by products with W̃ anywhere else."""

from typing import Any, ClassVar

from torch import Tensor

from fgcli.gradient.guess import LinearGuess, Needs
from fgcli.gradient.sites import Site


class PerSite:
    """`by_matrix` at sites below a Linear behind an elementwise activation, `by_products` at the others."""

    needs: ClassVar[Needs] = "operator"

    def __init__(self, by_matrix: LinearGuess, by_products: LinearGuess) -> None:
        self.by_matrix, self.by_products = by_matrix, by_products

    def prepare(self, site: Site) -> Any:
        return self._at(site).prepare(site)

    def noise_dim(self, site: Site, prepared: Any) -> int:
        return self._at(site).noise_dim(site, prepared)

    def map(self, site: Site, prepared: Any, z: Tensor) -> Tensor:
        return self._at(site).map(site, prepared, z)

    def _at(self, site: Site) -> LinearGuess:
        return self.by_products if site.next_layer is None else self.by_matrix
