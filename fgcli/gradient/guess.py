"""Contract 2, the inner half: what a guess method is."""

from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from fgcli.gradient.sites import Site

Needs = Literal["nothing", "operator", "matrix"]


class GuessMethod(Protocol):
    """What all guess methods share. Constructed with the method's options.

    Beside `prepare`, only means over the samples of the present batch may be put into `site.memory`, for the next step:
    where a batch is taken in parts, theirs make one. A method whose guess for a sample depends on the others of its
    batch has a class attribute `whole_batch = True`: it is given no parts.
    """

    needs: ClassVar[Needs]
    """What the method asks of `site.upstream`: `nothing`; `operator`, to apply it and its transpose; or `matrix`, its
    weight and slope too. A model that cannot give that is refused. The output layer has nothing above it: there the
    engine draws N(0, I) in place of a method that needs anything."""

    def prepare(self, site: Site) -> Any:
        """What all samples share, computed once per parameter update. `site.memory` holds warm starts."""
        ...


@runtime_checkable
class LinearGuess(GuessMethod, Protocol):
    """A guess that is a linear map of noise, y = A z with z of mean 0 and covariance I.

    It draws nothing and knows no seed. Its covariance is A Aᵀ.
    """

    def noise_dim(self, site: Site, prepared: Any) -> int:
        """The length of z."""
        ...

    def map(self, site: Site, prepared: Any, z: Tensor) -> Tensor:
        """y = A z per sample: [batch, noise_dim] -> [batch, *site.shape]; or both with a trailing axis of columns."""
        ...


@runtime_checkable
class SampledGuess(GuessMethod, Protocol):
    """A guess that is not linear in its noise. It gives up exact moments and orthogonal draws."""

    def sample(self, site: Site, prepared: Any, batch: int, generator: torch.Generator) -> Tensor:
        """y of each sample, [batch, *site.shape], from `generator` alone."""
        ...


class Isotropic:
    """y = z ~ N(0, I): the guess that assumes nothing."""

    needs: ClassVar[Needs] = "nothing"

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return torch.Size(site.shape).numel()

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return z.reshape(z.shape[0], *site.shape, *z.shape[2:])


class NoGuess:
    """y = 0: at a layer that is not trained, whose guess would be noise for the others."""

    needs: ClassVar[Needs] = "nothing"

    def prepare(self, site: Site) -> None:
        return None

    def noise_dim(self, site: Site, prepared: None) -> int:
        return 0

    def map(self, site: Site, prepared: None, z: Tensor) -> Tensor:
        return z.new_zeros(z.shape[0], *site.shape, *z.shape[2:])
