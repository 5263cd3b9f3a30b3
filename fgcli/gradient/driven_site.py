"""A site with the guess that drives it: its draws, for one tangent or several, each from its key alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Self

import torch
from torch import Tensor

from fgcli.gradient import checked
from fgcli.gradient.chain import Segment
from fgcli.gradient.checked import Guess
from fgcli.gradient.draws import Drawn, Kept, LinearMap, Mapped
from fgcli.gradient.guess import LinearGuess, SampledGuess
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.segment import GraphSegment
from fgcli.gradient.sites import Site
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.upstream import UpstreamJacobian


@dataclass
class DrivenSite:
    """A site, its guess and, where the guess needs it, the segment above."""

    site: Site
    guess: Guess
    segment: Segment | GraphSegment | None = None
    prepared: Any = None

    @cached_property
    def linear_guess(self) -> LinearGuess | None:
        """The guess, if it is linear in its noise. Asked once: isinstance of a protocol takes 20 µs."""
        return self.guess if isinstance(self.guess, LinearGuess) else None

    @property
    def takes_parts(self) -> bool:
        """Whether the parts of a batch have the guesses of the whole, drawn from streams that go on."""
        return self.linear_guess is not None and not getattr(self.guess, "whole_batch", False)

    def observe(self, s: Tensor) -> None:
        if isinstance(self.segment, Segment):
            self.site.slope = self.segment.slope(s)

    @contextmanager
    def observing(self, s: Tensor) -> Iterator[Self]:
        """Within it the site has observed s; afterwards nothing is left of that."""
        self.observe(s)
        yield self
        self.site.slope = None

    def linear(self, s: Tensor, jacobian: UpstreamJacobian | None = None) -> LinearMap:
        """The guess as a linear map at s. It keeps this batch when a later pass observes another.

        `jacobian` is W̃ there, where the segment above is a GraphSegment.
        """
        guess = self.linear_guess
        if guess is None:
            raise TypeError(f"{type(self.guess).__name__} is not linear in its noise")
        site = replace(self.site, output=s, jacobian=jacobian)
        noise_dim = checked.noise_dim(guess, site, self.prepared)
        return LinearMap(noise_dim, partial(checked.mapped, guess, site, self.prepared))

    def draw(
        self, s: Tensor, rng: StepRng, tangents: Tangents, k: int = 0, jacobian: UpstreamJacobian | None = None
    ) -> Tensor:
        """The guess y of every sample for tangent k, in the shape of s [batch, *site.shape]."""
        if self.linear_guess is None and isinstance(self.guess, SampledGuess):
            site = replace(self.site, output=s, jacobian=jacobian)
            generator = rng.generator(tangents.key("guess", k), site.name, s.device)
            return checked.sampled(self.guess, site, self.prepared, s, generator)
        linear = self.linear(s, jacobian)
        shape = (len(s), linear.noise_dim)
        return linear.map(tangents.noise(rng, "guess", self.site.name, range(k, k + 1), shape, s)[0])

    def draw_several(
        self, s: Tensor, rng: StepRng, tangents: Tangents, part: range, jacobian: UpstreamJacobian | None = None
    ) -> Drawn:
        """What is to be remembered of the tangents of `part`, at s [batch, *site.shape]."""
        if self.linear_guess is None:
            return Kept(torch.stack([self.draw(s, rng, tangents, k, jacobian) for k in part]))
        linear = self.linear(s, jacobian)
        noise = tangents.noise(rng, "guess", self.site.name, part, (len(s), linear.noise_dim), s)
        drawn = Mapped(linear, noise)
        if tangents.combine == "projection":
            return Kept(drawn.all())
        if jacobian is not None and len(part) == tangents.number:
            # Not the map, which holds W̃ and all that its operations have computed, and takes several products.
            return Kept(drawn.all(), drawn.gram(tangents) if tangents.combine == "orthogonal" else None)
        return drawn
