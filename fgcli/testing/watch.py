"""A guess method in the engine that it is written for, with what it gives written down."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fgcli.gradient.checked import Guess
from fgcli.gradient.errors import GuessFault, ModelRefused
from fgcli.gradient.estimator import Batch, Estimate
from fgcli.gradient.forward_gradient import ForwardGradient
from fgcli.gradient.guess import SampledGuess
from fgcli.gradient.randomness import Streams
from fgcli.gradient.sites import Site
from fgcli.testing.cases import Case, cross_entropy
from fgcli.testing.expect import CheckFailed

Look = Callable[[Site, Tensor], None]
SEED = 7


class Watched:
    """The engine, bound to a case, with the guess of each site kept as it was given."""

    def __init__(self, guess: Guess, case: Case, look: Look = lambda site, y: None) -> None:
        self.case = case
        self.guesses: dict[str, Tensor] = {}

        def keep(site: Site, y: Tensor) -> None:
            if isinstance(y, Tensor):
                self.guesses[site.name] = y.clone()
                look(site, y)

        watched: Any = _WatchedSample(guess, keep) if isinstance(guess, SampledGuess) else _WatchedMap(guess, keep)
        self.engine = ForwardGradient(watched)
        with told(case):
            self.sites = self.engine.bind(case.model, case.batch.inputs).sites

    def estimate(self, step: int = 0, batch: Batch | None = None) -> Estimate:
        """Of the case's batch, or another."""
        with told(self.case):
            chosen = self.case.batch if batch is None else batch
            return self.engine.estimate(self.case.model, cross_entropy, chosen, Streams(SEED).at(step))

    def guess(self, step: int = 0) -> dict[str, Tensor]:
        """The method's guesses at a step, by site; at the output layer the engine may draw its own."""
        self.estimate(step)
        return dict(self.guesses)


@contextmanager
def told(case: Case) -> Iterator[None]:
    """What the engine says against a method, as a failure that names the case."""
    __tracebackhide__ = True
    try:
        yield
    except (GuessFault, ModelRefused) as fault:
        raise CheckFailed(f"in {case}: {fault}") from fault


class _WatchedMap:
    def __init__(self, guess: Any, look: Look) -> None:
        self.guess, self.look, self.needs = guess, look, guess.needs

    def prepare(self, site: Site) -> Any:
        return self.guess.prepare(site)

    def noise_dim(self, site: Site, prepared: Any) -> int:
        return self.guess.noise_dim(site, prepared)

    def map(self, site: Site, prepared: Any, z: Tensor) -> Tensor:
        y = self.guess.map(site, prepared, z)
        self.look(site, y)
        return y


class _WatchedSample:
    def __init__(self, guess: Any, look: Look) -> None:
        self.guess, self.look, self.needs = guess, look, guess.needs

    def prepare(self, site: Site) -> Any:
        return self.guess.prepare(site)

    def sample(self, site: Site, prepared: Any, batch: int, generator: torch.Generator) -> Tensor:
        y = self.guess.sample(site, prepared, batch, generator)
        self.look(site, y)
        return y
