"""Contract 2: what a guess method is. A linear map from noise to the tangent space of its site, y = A z."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from fgcli.gradient.errors import GuessFault
from fgcli.gradient.nested import described

Needs = Literal["nothing", "operator", "matrix"]
"""What a guess method asks of the upstream Jacobian."""


@dataclass(frozen=True)
class Layer:
    """One site, as a guess method sees it."""

    name: str
    shape: tuple[int, ...]
    """Of s_i, of one sample."""
    weight: Tensor
    """The weight that the site uses, without a graph."""
    step: int
    """Number of the parameter update."""
    next_weight: Tensor | None = None
    """W_{i+1} [d_out, d_in] where W̃ is that matrix behind the slope of an elementwise activation."""
    output: Tensor | None = None
    """s_i [batch, *shape] of the present batch. None in `prepare`."""
    shared: bool = False
    """Whether s_i is one for the whole batch (a position embedding's), [1, *shape], so that W̃ reaches all samples."""

    @property
    def dim(self) -> int:
        """d_i, the dimension of s_i."""
        return math.prod(self.shape)


class Memory(MutableMapping[str, Tensor]):
    """What a method keeps of a site from one update to the next, checkpointed with the run.

    Read, a tensor is in the dtype and on the device of the site's weight, which may change in a run.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.like: Tensor | None = None

    def __getitem__(self, key: str) -> Tensor:
        kept = self.tensors[key]
        return kept if self.like is None else kept.to(self.like)

    def __setitem__(self, key: str, value: Tensor) -> None:
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise TypeError(f"memory takes tensors by name, not {key!r}, a {type(value).__name__}")
        self.tensors[key] = value

    def __delitem__(self, key: str) -> None:
        del self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@dataclass(frozen=True)
class LinearMap:
    """A guess at a site for one batch, y = A z with z of mean 0 and covariance I. Its covariance is A Aᵀ."""

    noise_dim: int
    """The length of z."""
    map: Callable[[Tensor], Tensor]
    """y of z, and nothing else: [batch, noise_dim] -> [batch, *shape], or both with a trailing axis of columns. The y
    of a site of several axes may be vectors [batch, dim]."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """Means over the samples, put into the memory for the next `prepare`. Of a batch that is taken in parts, the
    engine averages them."""

    def columns(self, z: Tensor) -> Tensor:
        """Map the noise of several tangents at once.

        Args:
            z: noise [tangents, batch, noise_dim].

        Returns:
            y [tangents, batch, *shape].
        """
        return self.map(z.movedim(0, -1)).movedim(-1, 0).contiguous()


class GuessMethod(ABC):
    """A guess that is linear in its noise. It draws nothing and knows no seed: draws of any kind, exact moments and
    second passes follow from the map. Constructed with the method's options."""

    needs: ClassVar[Needs] = "operator"
    """What it asks of `upstream`: `nothing`; `operator`, to apply it and its transpose; or `matrix`, a LinearUpstream
    with its weight and slope. A model that cannot give that is refused. The sites that only the model's output is
    reached from have nothing above them: there the engine draws N(0, I) for a method that needs anything."""
    whole_batch: ClassVar[bool] = False
    """Whether the guess for a sample depends on the others of its batch, which is then taken in no parts."""
    reads_output: bool = True
    """Whether `linearize` reads numbers of `layer.output`. Else they are not kept where W̃ is known by its products, and
    NaN there."""
    first_samples: int = 0
    """How many of a batch's first samples `linearize` may look at for what all samples share, where `prepare` could not
    make that yet. Of several processes, each lets `linearize` see them first."""

    def prepare(self, layer: Layer, memory: Memory) -> Any:
        """What all samples share, once per parameter update.

        Args:
            layer: the site, without samples.
            memory: what earlier updates and batches have left. What is put into it is there next time.

        Returns:
            Anything; `linearize` is given it.
        """
        return None

    @abstractmethod
    def linearize(self, layer: Layer, upstream: Any, prepared: Any) -> LinearMap:
        """The guess as a linear map for this batch, or for a part of it. Factorisations belong here: once a batch.

        Args:
            layer: the site, with its output for this batch.
            upstream: W̃ of every sample. None where the method needs nothing.
            prepared: what `prepare` gave, the same object for all parts of a batch.

        Returns:
            The map.
        """


class SampledGuess(ABC):
    """A guess that is not linear in its noise. It gives up exact moments and orthogonal draws."""

    needs: ClassVar[Needs] = "operator"

    def prepare(self, layer: Layer, memory: Memory) -> Any:
        """What all samples share, once per parameter update.

        Args:
            layer: the site, without samples.
            memory: what earlier updates have left. What is put into it is there next time.

        Returns:
            Anything; `sample` is given it.
        """
        return None

    @abstractmethod
    def sample(self, layer: Layer, upstream: Any, prepared: Any, generator: torch.Generator) -> Tensor:
        """Draw the guess of every sample.

        Args:
            layer: the site, with its output [batch, *shape] for this batch.
            upstream: W̃ of every sample. None where the method needs nothing.
            prepared: what `prepare` gave.
            generator: the only source of random numbers, on the device of `layer.output`.

        Returns:
            y [batch, *shape], in the dtype and on the device of `layer.output`.
        """


Guess = GuessMethod | SampledGuess


class Isotropic(GuessMethod):
    """y = z ~ N(0, I): the guess that assumes nothing."""

    needs: ClassVar[Needs] = "nothing"

    def linearize(self, layer: Layer, upstream: None, prepared: None) -> LinearMap:
        return LinearMap(layer.dim, lambda z: z)


def checked_method(method: Any) -> Guess:
    """The method. TypeError, with what it should be, for anything else."""
    if not isinstance(method, GuessMethod | SampledGuess):
        raise TypeError(
            f"{type(method).__name__} is no guess method: it must derive from GuessMethod (with linearize) or "
            "SampledGuess (with sample)"
        )
    if method.needs not in get_args(Needs):
        raise TypeError(f"{type(method).__name__}.needs is {method.needs!r}; it must be one of {get_args(Needs)}")
    return method


def prepared(guess: Guess, layer: Layer, memory: Memory) -> Any:
    """What `guess.prepare` gives. GuessFault where it raises."""
    return _call(layer, "prepare", guess.prepare, layer, memory)


def linearized(guess: GuessMethod, layer: Layer, upstream: Any, ready: Any) -> LinearMap:
    """The guess as a map whose y is held to the contract.

    Raises:
        GuessFault: where the method raises or gives no LinearMap; from the map, where y has another shape, dtype or
            device, or a graph. No value of a tensor is looked at.
    """
    linear = _call(layer, "linearize", guess.linearize, layer, upstream, ready)
    if not isinstance(linear, LinearMap):
        raise GuessFault(layer.name, f"linearize returned {described(linear)}; it must return a LinearMap")
    if not isinstance(linear.noise_dim, int) or linear.noise_dim < 0:
        raise GuessFault(layer.name, f"linearize gave noise_dim {linear.noise_dim!r}; it must be a number of 0 or more")
    for key, value in linear.statistics.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise GuessFault(layer.name, f"linearize gave {key!r}, {described(value)}, in statistics; tensors by name")

    def y_of(z: Tensor) -> Tensor:
        y = _call(layer, "map", linear.map, z)
        if isinstance(y, Tensor) and len(layer.shape) != 1 and y.shape == (len(z), layer.dim, *z.shape[2:]):
            y = y.reshape(len(z), *layer.shape, *z.shape[2:])
        return _checked(layer, "map", y, (len(z), *layer.shape, *z.shape[2:]), z)

    return LinearMap(linear.noise_dim, y_of, linear.statistics)


def sampled(guess: SampledGuess, layer: Layer, upstream: Any, ready: Any, generator: torch.Generator) -> Tensor:
    """y of each sample, in the dtype and on the device of s. GuessFault as of `linearized`."""
    assert layer.output is not None
    y = _call(layer, "sample", guess.sample, layer, upstream, ready, generator)
    return _checked(layer, "sample", y, tuple(layer.output.shape), layer.output)


def check_linear(linear: LinearMap, site: str, s: Tensor) -> None:
    """GuessFault where the map of a site is not linear for noise in the dtype of s [batch, ...], to a third.

    A map by iterations (conjugate gradients) is linear as far as they have converged.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (len(s), linear.noise_dim)
    one, other = (torch.randn(shape, generator=generator, dtype=torch.float64).to(s) for _ in range(2))
    together, apart = linear.map(one - 2 * other), linear.map(one) - 2 * linear.map(other)
    size, error = float(apart.nan_to_num().norm()), float((together - apart).nan_to_num().norm())
    if error > size / 3 + 1e-12:
        raise GuessFault(
            site,
            f"map is not linear: of u - 2 v it gives what is off by {error / max(size, 1e-12):.2g} of map(u) - "
            "2 map(v); a guess of another form derives from SampledGuess",
        )


def _call(layer: Layer, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except GuessFault:
        raise
    except (Exception, SystemExit) as cause:
        raise GuessFault(layer.name, f"{name} raised {type(cause).__name__}: {cause}") from cause


def _checked(layer: Layer, name: str, y: Any, shape: tuple[int, ...], like: Tensor) -> Tensor:
    if not isinstance(y, Tensor):
        raise GuessFault(layer.name, f"{name} returned {described(y)}; it must return a tensor {list(shape)}")
    for what, found, expected in (
        ("shape", tuple(y.shape), shape),
        ("dtype", y.dtype, like.dtype),
        ("device", y.device, like.device),
        ("layout", y.layout, like.layout),
    ):
        if found != expected:
            given, wanted = (list(v) if isinstance(v, tuple) else v for v in (found, expected))
            raise GuessFault(layer.name, f"{name} returned a tensor of {what} {given}; it must be {wanted}")
    if y.requires_grad:
        raise GuessFault(layer.name, f"{name} returned a tensor that requires grad; it must record no graph: detach")
    return y
