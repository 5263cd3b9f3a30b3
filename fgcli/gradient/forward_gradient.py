"""The forward gradient: one pass with dual numbers, driven by a guess method.

Each site adds its guess y_{i,b} to the tangent of s_{i,b}; the tangent of the loss is then
δ_b = Σ_i ⟨g_{i,b}, y_{i,b}⟩, one δ_b for all sites together, and δ_b y_{i,b} the guess of g_{i,b}
(Baydin et al. 2022; Ren et al. 2023). There is no reverse pass and no recorded graph.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient import checked
from fgcli.gradient.chain import Above, NoSegment, OutputLayer, Segment, find_segments
from fgcli.gradient.checked import Guess
from fgcli.gradient.dual import directional_derivative, dual_forward, hooks
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.guess import Isotropic, LinearGuess, Needs, SampledGuess
from fgcli.gradient.probe import output_shapes, refuse_disagreement, refuse_missing_formulas, refuse_other_uses
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.segment import GraphSegment, Lookahead
from fgcli.gradient.sites import (
    LAYERS,
    Site,
    SiteModule,
    named_site_modules,
    refuse_mixing_layers,
    refuse_shared_weights,
    weight_gradients,
)


@dataclass(frozen=True)
class LinearMap:
    """A linear guess at a site, for one batch: z [batch, noise_dim(, columns)] -> [batch, *site.shape(, columns)]."""

    noise_dim: int
    map: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DualPass:
    """What one pass with dual numbers saw and drew."""

    losses: Tensor
    """[batch]."""
    directional_derivative: Tensor
    """δ [batch]."""
    inputs: dict[str, Tensor]
    """x of every site."""
    guesses: dict[str, Tensor]
    """y of every site, [batch, *site.shape]."""
    directions: dict[str, Tensor]
    """Of the parameters that no site covers, by name."""


@dataclass
class _Driven:
    """A site with the guess that drives it and, where the guess needs it, the segment above."""

    site: Site
    guess: Guess
    segment: Segment | GraphSegment | None = None
    prepared: Any = None

    def observe(self, s: Tensor) -> None:
        if isinstance(self.segment, Segment):
            self.site.slope = self.segment.slope(s)

    def draw(self, s: Tensor, rng: StepRng) -> Tensor:
        """The guess y of every sample, in the shape of s [batch, *site.shape]."""
        self.site.output = s
        try:
            if isinstance(self.guess, SampledGuess):
                generator = rng.generator("guess", self.site.name, s.device)
                return checked.sampled(self.guess, self.site, self.prepared, s, generator)
            noise_dim = checked.noise_dim(self.guess, self.site, self.prepared)
            z = rng.normal("guess", self.site.name, (len(s), noise_dim), s)
            return checked.mapped(self.guess, self.site, self.prepared, z)
        finally:
            self.site.output = None  # not kept from one step to the next


class ForwardGradient:
    """The estimator that a guess method drives.

    uncovered: parameters that no site covers (a LayerNorm's scale) are trained by weight perturbation carried in
    the same pass, or frozen.
    """

    def __init__(self, method: Guess, uncovered: Literal["perturb", "freeze"] = "perturb") -> None:
        if isinstance(method, LinearGuess) == isinstance(method, SampledGuess):
            parts = "needs, prepare and either noise_dim and map, or sample"
            raise TypeError(f"{type(method).__name__} is no guess method: it must have {parts}")
        if method.needs not in get_args(Needs):
            raise TypeError(f"{type(method).__name__}.needs is {method.needs!r}; it must be one of {get_args(Needs)}")
        self.method = method
        self.uncovered = uncovered
        self._driven: dict[str, _Driven] = {}
        self._modules: dict[str, SiteModule] = {}
        self._coverage = Coverage(())
        self._lookahead: Lookahead | None = None
        self._prepared_at: int | None = None

    def bind(self, model: nn.Module, example: Tensor) -> Coverage:
        refuse_mixing_layers(model)
        candidates = named_site_modules(model)
        refuse_shared_weights(candidates)
        shapes = output_shapes(model, candidates, example)
        if not shapes:
            raise ModelRefused(f"the model has no site: no {LAYERS} layer that its forward calls")
        above = find_segments(model, shapes) if self.method.needs != "nothing" else {}
        self._modules = {name: candidates[name] for name in shapes}
        refuse_missing_formulas(model, self._modules, example)
        refuse_other_uses(model, self._modules, example)
        self._driven = {
            name: self._drive(Site(name, candidates[name], shape), above.get(name)) for name, shape in shapes.items()
        }
        graphs = {name: one.segment for name, one in self._driven.items() if isinstance(one.segment, GraphSegment)}
        self._lookahead = Lookahead(graphs) if graphs else None
        if self._lookahead is not None:
            refuse_disagreement(model, self._lookahead.traced, self._modules, example)
            self._lookahead.refuse_unusable(example)
        covered = {name for driven in self._driven.values() for name, _ in driven.site.parameters()}
        rest = tuple(n for n, p in model.named_parameters() if p.requires_grad and n not in covered)
        perturbed, frozen = (rest, ()) if self.uncovered == "perturb" else ((), rest)
        self._coverage = Coverage(tuple(shapes), perturbed, frozen)
        self._prepared_at = None
        return self._coverage

    def _drive(self, site: Site, above: Above | None) -> _Driven:
        if above is None:
            return _Driven(site, self.method)
        if isinstance(above, OutputLayer):
            return _Driven(site, Isotropic())
        if isinstance(above, NoSegment):
            raise ModelRefused(
                f"site '{site.name}' ({type(site.module).__name__}) {above.reason}, so that its upstream Jacobian is "
                "not known; make the forward one that it can follow (no branches on values), or use "
                "activation-perturbation"
            )
        if isinstance(above, GraphSegment) and self.method.needs == "matrix":
            raise ModelRefused(
                f"site '{site.name}' ({type(site.module).__name__}) {above.reason}; a method that needs the upstream "
                "Jacobian as a matrix takes a chain of Linear layers and elementwise activations: use a solver or "
                "method that only applies it, or activation-perturbation"
            )
        site.next_layer = above.next_layer if isinstance(above, Segment) else None
        return _Driven(site, self.method, above)

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        drawn = self.dual_pass(model, loss, batch, rng)
        delta = drawn.directional_derivative
        with torch.no_grad():
            total = delta.sum()
            gradients = {name: total * direction for name, direction in drawn.directions.items()}
            for name, y in drawn.guesses.items():
                guess = y.mul_(delta.view(-1, *[1] * (y.dim() - 1)))
                gradients |= weight_gradients(self._driven[name].site, drawn.inputs[name], guess)
        return Estimate(drawn.losses, gradients, delta)

    def dual_pass(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> DualPass:
        """The pass that `estimate` makes of the same arguments."""
        refuse_mixing_layers(model)
        self._prepare(rng.step)
        inputs: dict[str, Tensor] = {}
        guesses = dict(self._draw_ahead(batch.inputs, rng))

        def perturb(name: str, x: Tensor, s: Tensor) -> Tensor:
            inputs[name] = x
            if name not in guesses:
                driven = self._driven[name]
                driven.observe(s)
                guesses[name] = driven.draw(s, rng)
            return guesses[name]

        with torch.no_grad(), forward_ad.dual_level():
            directions = {
                name: rng.normal("weight", name, tuple(parameter.shape), parameter)
                for name, parameter in model.named_parameters()
                if name in self._coverage.perturbed
            }
            outputs = dual_forward(model, batch.inputs, self._modules, perturb, directions)
            losses, delta = directional_derivative(loss(outputs, batch.targets))
        return DualPass(losses, delta, inputs, guesses, directions)

    def _draw_ahead(self, inputs: Tensor, rng: StepRng) -> Iterator[tuple[str, Tensor]]:
        """The guesses of the sites that have a GraphSegment."""
        for name, s, jacobian in self._lookahead(inputs) if self._lookahead else ():
            driven = self._driven[name]
            driven.site.jacobian = jacobian
            yield name, driven.draw(s, rng)
            driven.site.jacobian = None  # what its graph holds is let go

    def linear_maps(self, model: nn.Module, inputs: Tensor, step: int) -> dict[str, LinearMap]:
        """The guess of every site as a linear map, after `step` updates and for these inputs [batch, ...].

        Exact moments follow from it. Raises TypeError for a method that is not linear in its noise.
        """
        self._prepare(step)
        maps: dict[str, LinearMap] = {}
        ahead = {name: jacobian for name, _, jacobian in self._lookahead(inputs)} if self._lookahead else {}

        def observe(name: str, _: nn.Module, __: tuple[Tensor, ...], s: Tensor) -> None:
            driven = self._driven[name]
            if not isinstance(driven.guess, LinearGuess):
                raise TypeError(f"{type(driven.guess).__name__} is not linear in its noise")
            driven.observe(s)
            site = replace(
                driven.site, output=s, jacobian=ahead.get(name)
            )  # keeps this batch when a later pass observes another
            noise_dim = checked.noise_dim(driven.guess, site, driven.prepared)
            maps[name] = LinearMap(noise_dim, partial(checked.mapped, driven.guess, site, driven.prepared))

        with torch.no_grad(), forward_ad.dual_level(), hooks(self._modules, observe):
            model(inputs)
        return maps

    def find_fault(self, model: nn.Module, batch: Batch, rng: StepRng) -> str | None:
        """The first site whose guess is not finite in that step's estimate, drawn again from its key; None if none."""
        found: list[str] = []
        ahead = dict(self._draw_ahead(batch.inputs, rng))

        def look(name: str, _: nn.Module, __: tuple[Tensor, ...], s: Tensor) -> None:
            if found or not torch.isfinite(s).all():
                return
            driven = self._driven[name]
            driven.observe(s)
            if not torch.isfinite(ahead[name] if name in ahead else driven.draw(s, rng)).all():
                found.append(f"site '{name}': the guess is not finite")

        with torch.no_grad(), forward_ad.dual_level(), hooks(self._modules, look):
            model(batch.inputs)
        return found[0] if found else None

    def _prepare(self, step: int) -> None:
        """Let the method prepare every site, once per parameter update, which `step` counts."""
        if step == self._prepared_at:
            return
        for driven in self._driven.values():
            driven.site.step, driven.site.slope = step, None
            with torch.no_grad():
                driven.prepared = checked.prepare(driven.guess, driven.site)
        self._prepared_at = step

    def state(self) -> dict[str, Tensor]:
        return {
            f"{name}/{key}": value for name, driven in self._driven.items() for key, value in driven.site.memory.items()
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        for driven in self._driven.values():
            driven.site.memory.clear()
        for key, value in state.items():
            name, _, entry = key.rpartition("/")
            self._driven[name].site.memory[entry] = value
        self._prepared_at = None
