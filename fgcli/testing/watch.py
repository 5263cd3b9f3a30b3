"""A guess method in the engine that it is written for, with what the engine gave it written down."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import GuessFault, ModelRefused
from fgcli.gradient.estimator import Estimate
from fgcli.gradient.guess import Guess, GuessMethod, Layer, LinearMap, Memory, SampledGuess, linearized
from fgcli.gradient.randomness import Streams
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
from fgcli.spectra.dense import times
from fgcli.testing.cases import Case, cross_entropy
from fgcli.testing.expect import CheckFailed

SEED = 7


@dataclass(frozen=True)
class Seen:
    """What the engine gave a method at a site, for one batch."""

    layer: Layer
    upstream: Any
    """W̃ of the batch; None for a method that needs nothing."""
    prepared: Any
    before: Mapping[str, Tensor] = field(default_factory=dict)
    """Copies of the tensors that it gave, from before the method had them."""

    @property
    def given(self) -> dict[str, Tensor]:
        """The tensors that the engine gave, or copies of them."""
        layer, upstream = self.layer, self.upstream
        tensors = {"layer.weight": layer.weight, "layer.output": layer.output, "layer.next_weight": layer.next_weight}
        if isinstance(upstream, LinearUpstream):
            tensors |= {"upstream.weight": upstream.weight, "upstream.slope": upstream.slope}
        elif upstream is not None:
            tensors["the upstream Jacobian"] = upstream.dense()
        return {what: tensor for what, tensor in tensors.items() if tensor is not None}

    def copied(self) -> "Seen":
        """The same, with copies of the tensors as they are now."""
        return replace(self, before={what: tensor.clone() for what, tensor in self.given.items()})

    @property
    def samples(self) -> int:
        """The number of samples of the batch."""
        assert self.layer.output is not None
        return len(self.layer.output)

    def linearized(self, method: GuessMethod) -> LinearMap:
        """The method's map there, whose y is held to the contract as the engine holds it. GuessFault where it fails."""
        return linearized(method, self.layer, self.upstream, self.prepared)

    def rows(self, rows: slice) -> "Seen":
        """The same for some of the samples."""
        assert self.layer.output is not None
        layer = replace(self.layer, output=self.layer.output[rows])
        return Seen(layer, rows_of(self.upstream, rows), self.prepared)


class Watched:
    """The engine, bound to a case, with what it gives the method at each site.

    At the sites that the loss alone follows the engine draws its own guess, unless the method needs nothing.
    """

    def __init__(self, guess: Guess, case: Case) -> None:
        self.guess_method, self.case = guess, case
        self.seen: dict[str, Seen] = {}
        watched = _WatchedSample(guess, self.seen) if isinstance(guess, SampledGuess) else _WatchedMap(guess, self.seen)
        self.engine = GuessEstimator(watched)
        with told(case):
            self.engine.bind(case.model, case.batch.inputs)
        self.seen.clear()

    def estimate(self, step: int = 0) -> Estimate:
        """Of the case's batch."""
        with told(self.case):
            return self.engine.estimate(self.case.model, cross_entropy, self.case.batch, Streams(SEED).at(step))

    def draw(self, step: int = 0) -> tuple[dict[str, Tensor], Tensor]:
        """The method's guesses at a step, by site [batch, *shape], and δ [batch] along them. Nothing of it is kept."""
        with told(self.case):
            rng = Streams(SEED).at(step)
            made, found = self.engine.dual_pass(self.case.model, cross_entropy, self.case.batch, rng)
            guesses = {name: y.clone() for name, y in made.guesses.items()}
        return guesses, found.delta[:, 0]

    def guess(self, step: int = 0) -> dict[str, Tensor]:
        """The method's own guesses at a step, by site, after the estimate of that step was made."""
        self.estimate(step)
        guesses, _ = self.draw(step)
        return {name: y for name, y in guesses.items() if name in self.seen}

    def sites(self, step: int = 0) -> dict[str, Seen]:
        """What the engine gives the method at each of its sites."""
        with told(self.case), torch.no_grad():
            if isinstance(self.guess_method, GuessMethod):
                self.engine.linear_maps(self.case.model, self.case.batch.inputs, step)
            else:
                self.draw(step)
        return dict(self.seen)

    def linear_maps(self) -> dict[str, LinearMap]:
        """The map at every site, where the guess is the engine's own too."""
        with told(self.case), torch.no_grad():
            return self.engine.linear_maps(self.case.model, self.case.batch.inputs, 0)


@contextmanager
def told(case: Case) -> Iterator[None]:
    """What the engine says against a method, as a failure that names the case."""
    __tracebackhide__ = True
    try:
        yield
    except (GuessFault, ModelRefused) as fault:
        raise CheckFailed(f"in {case}: {fault}") from fault


@dataclass(frozen=True)
class DenseUpstream:
    """W̃ of some of the samples, as matrices."""

    whole: UpstreamJacobian
    rows: slice

    @cached_property
    def matrices(self) -> Tensor:
        """[batch, d_out, d_in]."""
        return self.whole.dense()[self.rows]

    @property
    def input_dim(self) -> int:
        return self.matrices.shape[2]

    @property
    def output_dim(self) -> int:
        return self.matrices.shape[1]

    def apply(self, v: Tensor) -> Tensor:
        return times(self.matrices, v)

    def apply_transpose(self, u: Tensor) -> Tensor:
        return times(self.matrices.mT, u)

    def nearest(self, rows: int) -> "DenseUpstream":
        return DenseUpstream(self.whole.nearest(rows), self.rows)

    def dense(self) -> Tensor:
        return self.matrices.clone()


def rows_of(upstream: UpstreamJacobian | None, rows: slice) -> UpstreamJacobian | None:
    """W̃ of some of the samples."""
    if upstream is None:
        return None
    if isinstance(upstream, LinearUpstream):
        return LinearUpstream(upstream.weight, upstream.slope[rows])
    return DenseUpstream(upstream, rows)


class _WatchedMap(GuessMethod):
    def __init__(self, guess: GuessMethod, seen: dict[str, Seen]) -> None:
        self.guess, self.seen = guess, seen
        self.needs, self.whole_batch = guess.needs, guess.whole_batch  # pyright: ignore[reportAttributeAccessIssue]
        self.reads_output = guess.reads_output

    def prepare(self, layer: Layer, memory: Memory) -> Any:
        return self.guess.prepare(layer, memory)

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: Any) -> LinearMap:
        self.seen[layer.name] = Seen(layer, upstream, prepared).copied()
        return self.guess.linearize(layer, upstream, prepared)


class _WatchedSample(SampledGuess):
    def __init__(self, guess: SampledGuess, seen: dict[str, Seen]) -> None:
        self.guess, self.seen = guess, seen
        self.needs = guess.needs  # pyright: ignore[reportAttributeAccessIssue]

    def prepare(self, layer: Layer, memory: Memory) -> Any:
        return self.guess.prepare(layer, memory)

    def sample(self, layer: Layer, upstream: UpstreamJacobian, prepared: Any, generator: torch.Generator) -> Tensor:
        self.seen[layer.name] = Seen(layer, upstream, prepared)
        return self.guess.sample(layer, upstream, prepared, generator)
