"""A site with the guess that is made there: prepared once an update, linearized once a batch, drawn from a key."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fgcli.gradient.draws import Drawn, Kept, Mapped
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.guess import Guess, GuessMethod, Isotropic, Layer, LinearMap, Memory, linearized, prepared, sampled
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.sites import Site
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian


class Guesser:
    """A site, its guess, and what the guess keeps.

    Args:
        site: the site.
        guess: the method, or what stands in for it at this site.
        needs_cut: whether W̃ has to come from the cut network.
    """

    def __init__(self, site: Site, guess: Guess, *, needs_cut: bool) -> None:
        self.site, self.guess, self.needs_cut = site, guess, needs_cut
        self.memory = Memory()
        self._prepared: Any = None
        self._prepared_at: int | None = None

    @property
    def takes_parts(self) -> bool:
        """Whether the parts of a batch have the guesses of the whole, drawn from streams that go on."""
        return isinstance(self.guess, GuessMethod) and not self.guess.whole_batch

    @property
    def reads_output(self) -> bool:
        """Whether the guess is made of numbers that the site gives."""
        return not isinstance(self.guess, GuessMethod) or self.guess.reads_output

    def forget(self) -> None:
        """Prepare anew at the next use."""
        self._prepared_at = None

    def linear(self, layer: Layer, upstream: UpstreamJacobian | None) -> LinearMap:
        """The guess as a linear map at `layer.output`. TypeError for a method that is not linear in its noise."""
        if not isinstance(self.guess, GuessMethod):
            raise TypeError(f"{type(self.guess).__name__} is not linear in its noise")
        return linearized(self.guess, layer, self._above(layer, upstream), self._ready(layer))

    def draw(
        self,
        layer: Layer,
        upstream: UpstreamJacobian | None,
        linear: LinearMap | None,
        rng: StepRng,
        tangents: Tangents,
        part: range,
    ) -> Drawn:
        """The guesses of the tangents of `part`, each from its key: y of every sample at `layer.output`.

        `linear` is the guess as a linear map there, None for a method that draws for itself.
        """
        s = layer.output
        assert s is not None
        if linear is None:
            assert not isinstance(self.guess, GuessMethod)
            above, ready = self._above(layer, upstream), self._ready(layer)
            generators = (rng.generator(tangents.key("guess", k), layer.name, s.device) for k in part)
            return Kept(torch.stack([sampled(self.guess, layer, above, ready, one) for one in generators]))
        rng = rng if self.site.has_samples else rng.shared
        drawn = Mapped(linear, tangents.noise(rng, "guess", layer.name, part, (len(s), linear.noise_dim), s))
        if tangents.single:
            return Kept(drawn.first().unsqueeze(0))  # not as columns: a map of one vector takes less
        return Kept(drawn.all()) if tangents.combine == "projection" else drawn

    def _ready(self, layer: Layer) -> Any:
        """What `prepare` gave for this update."""
        if self._prepared_at != layer.step:
            self.memory.like = layer.weight
            self._prepared = prepared(self.guess, replace(layer, output=None), self.memory)
            self._prepared_at = layer.step
        return self._prepared

    def _above(self, layer: Layer, upstream: UpstreamJacobian | None) -> Any:
        link, s = self.site.link, layer.output
        if self.guess.needs == "nothing" or upstream is not None or link is None:
            return upstream
        assert layer.next_weight is not None
        assert s is not None
        return LinearUpstream(layer.next_weight, link.slope(s))


def guesser_at(site: Site, method: Guess, *, at_lookups: bool) -> Guesser:
    """The guess of a site: the method's, or isotropic where it needs what is above and only the output is.

    So it is at a lookup, too, unless it is made `at_lookups`.

    Raises:
        ModelRefused: where it needs W̃ as a matrix, and there is none.
    """
    if method.needs == "nothing":
        return Guesser(site, method, needs_cut=False)
    if site.is_output or (site.is_lookup and not at_lookups):
        return Guesser(site, Isotropic(), needs_cut=False)
    if method.needs == "matrix" and site.link is None:
        raise ModelRefused(
            f"site '{site.name}' {site.reason}; a method that needs the upstream Jacobian as a matrix takes a chain of "
            "linear layers and elementwise activations: use a solver or method that only applies it, or "
            "activation-perturbation"
        )
    return Guesser(site, method, needs_cut=site.link is None)


def memories_of(guessers: Mapping[str, Guesser]) -> dict[str, Tensor]:
    """What the guesses keep, by site and name."""
    kept = {name: guesser.memory.tensors for name, guesser in guessers.items()}
    return {f"{name}/{key}": value for name, tensors in kept.items() for key, value in tensors.items()}


def load_memories(guessers: Mapping[str, Guesser], state: Mapping[str, Tensor]) -> None:
    """Have the guesses keep this, and nothing else. ModelRefused for what is of no site here."""
    for guesser in guessers.values():
        guesser.memory.clear()
        guesser.forget()
    for key, value in state.items():
        name, _, entry = key.rpartition("/")
        if name not in guessers:
            raise ModelRefused(f"the state holds {key}, but the model has no site '{name}'; it is another model's")
        guessers[name].memory[entry] = value
