"""The forward gradient: one pass with dual numbers, driven by a guess method.

Each site adds its guess y_{i,b} to the tangent of s_{i,b}; the tangent of the loss is then
δ_b = Σ_i ⟨g_{i,b}, y_{i,b}⟩, one δ_b for all sites together, and δ_b y_{i,b} the guess of g_{i,b}
(Baydin et al. 2022; Ren et al. 2023). There is no reverse pass and no recorded graph. Several guesses in one pass,
and what becomes of them: fgcli.gradient.tangents. The same in memory that does not grow with depth:
fgcli.gradient.replay.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient import checked
from fgcli.gradient.allocator import keep_freed_memory
from fgcli.gradient.batched import Link, batched_derivatives
from fgcli.gradient.chain import Above, NoSegment, OutputLayer, Segment, find_segments
from fgcli.gradient.checked import Guess
from fgcli.gradient.draws import Drawn, Kept, LinearMap, Mapped, joined
from fgcli.gradient.driven_site import DrivenSite
from fgcli.gradient.dual import directional_derivative, dual_forward, hooks
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.grad_mode import refuse_no_grad
from fgcli.gradient.guess import Isotropic, LinearGuess, Needs, NoGuess, SampledGuess
from fgcli.gradient.parts import Add, EstimatePart, estimate_in_parts, parts_of
from fgcli.gradient.precision import full_precision, refuse_low, wide
from fgcli.gradient.probe import (
    called_norms,
    output_shapes,
    refuse_changing,
    refuse_disagreement,
    refuse_operations,
    refuse_other_uses,
    refuse_random_layers,
)
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.replay import ROWS, STORED, Replay
from fgcli.gradient.segment import GraphSegment, Lookahead
from fgcli.gradient.sites import (
    Site,
    SiteModule,
    named_site_modules,
    padding_rows,
    refuse_hooks,
    refuse_mixing,
    refuse_no_site,
    refuse_shared_weights,
    refuse_wrapped,
    weight_gradients,
)
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.upstream import UpstreamJacobian

TRIED = 32
"""Samples that trial passes take at most: they keep what every layer sees."""


@dataclass(frozen=True)
class DualPass:
    """What the pass with dual numbers saw and drew."""

    losses: Tensor
    """[batch]."""
    directional_derivative: Tensor
    """δ [batch, K], along each tangent."""
    inputs: dict[str, Tensor]
    """x of every site."""
    draws: dict[str, Drawn]
    """By site."""
    coefficients: Tensor
    """c [batch, K]: the guess of g_{i,b} is Σ_k c_{b,k} y_{i,b,k}."""
    directions: dict[str, Tensor]
    """Of the parameters that no site covers, by name."""
    along_directions: Tensor
    """δ [batch] that their estimate multiplies: of a single tangent, the sites' own part is in it."""

    @property
    def guesses(self) -> dict[str, Tensor]:
        """y of every site, [batch, *site.shape]; of the first tangent."""
        return {name: drawn.first() for name, drawn in self.draws.items()}


class ForwardGradient:
    """The estimator that a guess method drives.

    uncovered: parameters that no site covers (a LayerNorm's scale) are trained by weight perturbation carried in
    the same pass, or frozen. With several tangents, they have one of their own, beside those of the sites.
    tangents: how many guesses at once, and how they make one estimate.
    memory: store what the weight gradients are made of during the pass, or make two passes that store nothing; where
    upstream Jacobians have no matrix, one pass of small parts of the batch.
    """

    def __init__(
        self,
        method: Guess,
        uncovered: Literal["perturb", "freeze"] = "perturb",
        tangents: Tangents | None = None,
        memory: Literal["store", "replay"] = "store",
    ) -> None:
        if isinstance(method, LinearGuess) == isinstance(method, SampledGuess):
            parts = "needs, prepare and either noise_dim and map, or sample"
            raise TypeError(f"{type(method).__name__} is no guess method: it must have {parts}")
        if method.needs not in get_args(Needs):
            raise TypeError(f"{type(method).__name__}.needs is {method.needs!r}; it must be one of {get_args(Needs)}")
        self.method = method
        self.uncovered, self.memory = uncovered, memory
        self.tangents = tangents or Tangents()
        if not isinstance(method, LinearGuess):
            self.tangents.refuse_for_sampled(type(method).__name__)
        self._driven: dict[str, DrivenSite] = {}
        self._modules: dict[str, SiteModule] = {}
        self._links: dict[str, Link] = {}
        self._norms: dict[str, nn.Module] = {}
        self._coverage = Coverage(())
        self._lookahead: Lookahead | None = None
        self._prepared_at: int | None = None
        self._padding_rows: dict[str, int] = {}

    def bind(self, model: nn.Module, example: Tensor) -> Coverage:
        example = example[:TRIED]
        refuse_wrapped(model)
        self._norms = called_norms(model, example)
        refuse_low(model)
        candidates = named_site_modules(model)
        refuse_shared_weights(candidates)
        refuse_hooks(candidates)
        shapes = output_shapes(model, candidates, example)
        if not shapes:
            refuse_no_site(model)
        single, needs = self.tangents.single, self.method.needs != "nothing"
        if self.memory == "replay":
            refuse_changing(model, example)
        elif not single:
            keep_freed_memory()
        above = find_segments(model, shapes) if needs or not single else {}
        self._modules = {name: candidates[name] for name in shapes}
        self._links = {} if single else _links(above, self._modules)
        refuse_operations(model, self._modules, example)
        if not single:
            refuse_random_layers(model, example)
        refuse_other_uses(model, self._modules, example)
        refuse_no_grad(model, example)
        self._driven = {
            name: self._drive(Site(name, candidates[name], shape), above[name] if needs else None)
            for name, shape in shapes.items()
        }
        graphs = {name: one.segment for name, one in self._driven.items() if isinstance(one.segment, GraphSegment)}
        self._lookahead = Lookahead(graphs) if graphs else None
        if self._lookahead is not None:
            refuse_disagreement(model, self._lookahead.traced, self._modules, example)
            self._lookahead.refuse_unusable(example)
        covered = {name for driven in self._driven.values() for name, _ in driven.site.parameters()}
        rest = tuple(n for n, p in model.named_parameters() if p.requires_grad and n not in covered)
        perturbed, frozen = (rest, ()) if self.uncovered == "perturb" else ((), rest)
        self._coverage, self._padding_rows = Coverage(tuple(shapes), perturbed, frozen), padding_rows(model)
        self._prepared_at = None
        if self.tangents.combine == "orthogonal":
            self._refuse_too_many(model, example)
        return self._coverage

    def _refuse_too_many(self, model: nn.Module, example: Tensor) -> None:
        dims = {name: linear.noise_dim for name, linear in self.linear_maps(model, example, 0).items()}
        self.load_state({})  # what `prepare` kept of this look
        self.tangents.refuse_above(dims)

    def _drive(self, site: Site, above: Above | None) -> DrivenSite:
        if not any(parameter.requires_grad for _, parameter in site.parameters()):
            return DrivenSite(site, NoGuess())
        if above is None:
            return DrivenSite(site, self.method)
        if isinstance(above, OutputLayer):
            return DrivenSite(site, Isotropic())
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
        return DrivenSite(site, self.method, above)

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        directions, sites = self._begin(model, rng), self._driven.values()
        size = len(batch.inputs)
        estimate: EstimatePart = partial(self._stored, model, loss, directions)
        if self.memory == "replay" and self._lookahead:
            size = STORED // sum(one.site.dim for one in sites)
        elif self.memory == "replay":
            size = ROWS
            estimate = Replay(model, loss, self._driven, self.tangents, self._links, directions)
        parts = parts_of(model, batch.inputs, size, sites, self.tangents)
        return estimate_in_parts(estimate, parts, sites, batch, rng)

    def _stored(
        self, model: nn.Module, loss: Loss, directions: dict[str, Tensor], part: Batch, rng: StepRng, add: Add
    ) -> tuple[Tensor, Tensor]:
        """As EstimatePart has it, in one pass."""
        drawn = self.dual_pass(model, loss, part, rng, directions)
        with full_precision(part.inputs):
            total = drawn.along_directions.sum()
            add({name: total * direction for name, direction in directions.items()})
            for name, draws in drawn.draws.items():
                guess = draws.combined(drawn.coefficients)
                add(weight_gradients(self._driven[name].site, wide(drawn.inputs[name]), guess))
        return drawn.losses, drawn.directional_derivative

    @torch.no_grad()
    def dual_pass(
        self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng, directions: dict[str, Tensor] | None = None
    ) -> DualPass:
        """The pass that `estimate` makes of the same arguments; in parts, where the tangents are chunked.

        `directions` are those of the parameters that no site covers, where the step has begun.
        """
        directions = self._begin(model, rng) if directions is None else directions
        single = self.tangents.single
        return (self._single_pass if single else self._batched_pass)(model, loss, batch, rng, directions)

    def _begin(self, model: nn.Module, rng: StepRng) -> dict[str, Tensor]:
        """Prepare the sites for this step, and draw the directions of the parameters that no site covers."""
        for name, norm in self._norms.items():
            refuse_mixing(name, norm)
        self._prepare(rng.step)
        directions = {
            name: rng.normal("weight", name, tuple(parameter.shape), parameter)
            for name, parameter in model.named_parameters()
            if name in self._coverage.perturbed
        }
        for name, row in self._padding_rows.items():
            if name in directions:
                directions[name][row] = 0
        return directions

    def _single_pass(
        self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng, directions: dict[str, Tensor]
    ) -> DualPass:
        inputs: dict[str, Tensor] = {}
        with full_precision(batch.inputs):
            guesses = {
                name: self._driven[name].draw(s, rng, self.tangents, jacobian=jacobian)
                for name, s, jacobian in self._ahead(batch.inputs)
            }

        def perturb(name: str, x: Tensor, s: Tensor) -> Tensor:
            inputs[name] = x
            if name not in guesses:
                driven = self._driven[name]
                driven.observe(s)
                guesses[name] = driven.draw(s, rng, self.tangents)
            return guesses[name]

        with forward_ad.dual_level():
            outputs = dual_forward(model, batch.inputs, self._modules, perturb, directions)
            losses, delta = directional_derivative(loss(outputs, batch.targets))
        draws: dict[str, Drawn] = {name: Kept(y.unsqueeze(0)) for name, y in guesses.items()}
        return DualPass(losses, delta.unsqueeze(1), inputs, draws, delta.unsqueeze(1), directions, delta)

    def _batched_pass(
        self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng, directions: dict[str, Tensor]
    ) -> DualPass:
        inputs: dict[str, Tensor] = {}
        draws: dict[str, list[Drawn]] = {name: [] for name in self._modules}
        chunks = list(self.tangents.parts)
        with full_precision(batch.inputs):
            ahead = self._ahead(batch.inputs)  # of one chunk, a Jacobian at a time
            ahead = list(ahead) if len(chunks) > 1 else ahead

        def derivatives(part: range, directions: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
            with full_precision(batch.inputs):
                drawn = {
                    name: self._driven[name].draw_several(s, rng, self.tangents, part, jacobian)
                    for name, s, jacobian in ahead
                }
                guesses = {name: one.all() for name, one in drawn.items() if isinstance(one, Mapped)}

            def perturb(name: str, x: Tensor, s: Tensor) -> Tensor:
                inputs[name] = x
                if name not in drawn:
                    self._driven[name].observe(s)
                    drawn[name] = self._driven[name].draw_several(s, rng, self.tangents, part)
                return guesses.pop(name) if name in guesses else drawn[name].all()

            with forward_ad.dual_level():
                found = batched_derivatives(
                    model, loss, batch, self._modules, perturb, len(part), self._links, directions
                )
            for name, one in drawn.items():
                draws[name].append(one)
            return found

        # What has a tangent of its own has it in the first part.
        parts = [derivatives(part, {} if number else directions) for number, part in enumerate(chunks)]
        delta = torch.cat([part[1] for part in parts], dim=1)
        whole = {name: joined(some) for name, some in draws.items()}
        losses, _, along_directions = parts[0]
        rest = losses.new_zeros(len(losses)) if along_directions is None else along_directions
        return DualPass(losses, delta, inputs, whole, self._coefficients(delta, whole), directions, rest)

    def _coefficients(self, delta: Tensor, draws: Mapping[str, Drawn]) -> Tensor:
        if self.tangents.combine == "mean":
            return self.tangents.coefficients(delta)
        with full_precision(delta):
            grams = [one.gram(self.tangents) for one in draws.values()]
            return self.tangents.coefficients(
                delta, torch.stack([one.matrix for one in grams]).sum(0), sum(one.n for one in grams)
            )

    def _ahead(self, inputs: Tensor) -> Iterator[tuple[str, Tensor, UpstreamJacobian]]:
        """Name, s and W̃ of the sites that have a GraphSegment, whose products no dual level allows."""
        return iter(self._lookahead(inputs) if self._lookahead else ())

    def linear_maps(self, model: nn.Module, inputs: Tensor, step: int) -> dict[str, LinearMap]:
        """The guess of every site as a linear map, after `step` updates and for these inputs [batch, ...].

        Exact moments follow from it. Raises TypeError for a method that is not linear in its noise.
        """
        self._prepare(step)
        maps: dict[str, LinearMap] = {}
        jacobians = {name: jacobian for name, _, jacobian in self._ahead(inputs)}

        def observe(name: str, _: nn.Module, __: tuple[Tensor, ...], s: Tensor) -> None:
            self._driven[name].observe(s)
            maps[name] = self._driven[name].linear(s, jacobians.get(name))

        with torch.no_grad(), forward_ad.dual_level(), hooks(self._modules, observe):
            model(inputs)
        return maps

    def find_fault(self, model: nn.Module, batch: Batch, rng: StepRng) -> str | None:
        """The first site whose guess is not finite in that step's estimate, drawn again from its key; None if none."""
        found: list[str] = []

        def look(driven: DrivenSite, s: Tensor, jacobian: UpstreamJacobian | None = None) -> None:
            if found or not torch.isfinite(s).all():
                return
            drawn = (driven.draw(s, rng, self.tangents, k, jacobian) for k in range(self.tangents.number))
            if not all(torch.isfinite(y).all() for y in drawn):
                found.append(f"site '{driven.site.name}': the guess is not finite")

        ahead = {name: (s, jacobian) for name, s, jacobian in self._ahead(batch.inputs)}
        for name, (s, jacobian) in ahead.items():
            look(self._driven[name], s, jacobian)

        def visit(name: str, _: nn.Module, __: tuple[Tensor, ...], s: Tensor) -> None:
            if name not in ahead:
                self._driven[name].observe(s)
                look(self._driven[name], s)

        with torch.no_grad(), forward_ad.dual_level(), hooks(self._modules, visit):
            model(batch.inputs)
        return found[0] if found else None

    def _prepare(self, step: int) -> None:
        """Let the method prepare every site, once per parameter update, which `step` counts."""
        if step == self._prepared_at:
            return
        for driven in self._driven.values():
            driven.site.step, driven.site.slope = step, None
            with torch.no_grad(), full_precision(driven.site.module.weight):
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
            if name not in self._driven:
                raise ModelRefused(f"the state holds {key}, but the model has no site '{name}'; it is another model's")
            self._driven[name].site.memory[entry] = value
        self._prepared_at = None


def _links(segments: Mapping[str, Above], modules: Mapping[str, SiteModule]) -> dict[str, Link]:
    names = {id(module): name for name, module in modules.items()}
    return {
        name: Link(names[id(above.next_layer)], above.slope)
        for name, above in segments.items()
        if isinstance(above, Segment)
    }
