"""The estimator that a guess method drives: the equation of the estimate.

Each site adds its guess y_{i,b} to the tangent of s_{i,b}; with e = ∂L/∂(output), exact and local, and δ_{b,k} the
derivative of sample b's share of the loss along tangent k,

    ĝ_{i,b} = Σ_k c_{b,k} y_{i,b,k}        c = δ for one tangent (Baydin et al. 2022; Ren et al. 2023)

and the weight's gradient is the use's own vjp, Σ_b ĝ_{i,b} x_{i,b}ᵀ for a linear layer. Passes give δ
(fgcli.gradient.step), tangents give y and c (fgcli.gradient.tangents). There is no reverse pass through the network:
within one use, one segment, or the loss alone a vjp is the chain rule's last local term.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy, deepcopy
from functools import partial
from typing import Any, Literal, TypeVar

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.allocator import keep_freed_memory
from fgcli.gradient.buffers import state_of
from fgcli.gradient.checks import GUESSES, refuse
from fgcli.gradient.checks.unpredicted import unpredicted
from fgcli.gradient.checks.unsteady import refuse_unsteady
from fgcli.gradient.errors import ModelRefused, UnknownSite
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.feedback import Feedback
from fgcli.gradient.guess import Guess, GuessMethod, LinearMap, check_linear, checked_method
from fgcli.gradient.guesser import Guesser, guesser_at, load_memories, memories_of
from fgcli.gradient.in_parts import InParts, read_of_whole
from fgcli.gradient.local_losses import Locality, locality_of
from fgcli.gradient.look import few, look
from fgcli.gradient.memory import FEW, FLOOR, ROWS, Measured, Plan, Policy, measured
from fgcli.gradient.nested import batch_size, first_tensor
from fgcli.gradient.passes import PlainPass, Seen
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.processes import ALONE, TakesRows, refuse_unsplittable_guesses
from fgcli.gradient.randomness import DRAWN_AT_ONCE, StepRng, Streams
from fgcli.gradient.reads import read_once
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.step import Derivatives, Step
from fgcli.gradient.tangents import Tangents

Made = TypeVar("Made")


class GuessEstimator(TakesRows):
    """Forward gradients, by any guess method.

    Args:
        method: the guess method.
        uncovered: parameters that no site covers (a LayerNorm's scale) are trained by weight perturbation carried in
            the same pass, or frozen. With several tangents, they have one of their own, beside those of the sites.
        embeddings: tables whose rows are looked up have isotropic noise at the rows, the method's own guess there, or
            are frozen.
        tangents: how many guesses at once, and how they make one estimate.
        memory: what a step may hold (fgcli.gradient.memory). The numbers are the same, to the order of sums.
        output_gradient: at the sites that only the output is reached from, `guess` as the papers do, or take the
            `exact` one, which is local. With feedback it is exact.
        feedback: how the gradient is predicted; None: not at all.

    Raises:
        TypeError: for what is no guess method.
        OptionRefused: for options that this one cannot have.
    """

    def __init__(
        self,
        method: Guess,
        *,
        uncovered: Literal["perturb", "freeze"] = "perturb",
        embeddings: Literal["guess", "isotropic", "freeze"] = "guess",
        tangents: Tangents | None = None,
        memory: Policy = "auto",
        output_gradient: Literal["guess", "exact"] = "guess",
        feedback: Feedback | None = None,
    ) -> None:
        self.method = checked_method(method)
        self.uncovered: Literal["perturb", "freeze"] = uncovered
        self.embeddings: Literal["guess", "isotropic", "freeze"] = embeddings
        self.memory: Policy = memory
        self.tangents = tangents or Tangents()
        if not isinstance(method, GuessMethod):
            self.tangents.refuse_for_sampled(type(method).__name__)
        self.feedback = feedback
        self.is_exact = output_gradient == "exact" or feedback is not None
        self.network: Network | None = None
        self._guessers: dict[str, Guesser] = {}
        self._perturbed: tuple[str, ...] = ()
        self._pieces: tuple[str, ...] = ()
        self._exact: frozenset[str] = frozenset()
        self._measured: dict[bool, Measured | None] = {}
        self._rows: dict[tuple[int, bool], int] = {}
        """What few samples have shown, by whether a second pass makes the guesses again."""
        self._once = 0
        """Bytes that the noise of a site without samples takes for each of them."""
        self._drawn = 0
        """Bytes a sample of the noise that small parts draw of the whole batch."""
        self._whole: Plan | None = None
        """Of a trial: what is done in any case."""
        self._locality: Locality | None = None

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, GUESSES)
        self._measured, self._rows = {}, {}
        self.processes.refuse_unsplittable(model, example)
        if self.memory != "replay" and (self.feedback is not None or not self.tangents.single):
            keep_freed_memory()
        coverage = self._take_up(model, look(model, example), example)
        if self._needs_cut or self.feedback is not None or not self.tangents.single or self.memory != "store":
            refuse_unsteady(model, example)
        refuse_unsplittable_guesses(self.processes, self._guessers if self._guesses else {})
        if isinstance(self.method, GuessMethod):
            self._try(model, example if self.bound.mixes else few(example, 2))
        if self.feedback is not None:
            self.feedback.try_on(model, self.bound, example if self.bound.mixes else few(example, 2))
        return coverage

    def _take_up(self, model: nn.Module, network: Network, inputs: Any) -> Coverage:
        """Have a guess at every site of the network; those that had one keep their memory."""
        network, tables = network.without_lookups() if self.embeddings == "freeze" else (network, ())
        if not network.guessed:
            raise ModelRefused(
                "the model has no site: its forward uses no trained weight (a parameter of two or more axes) in a "
                "linear layer, a convolution, a matrix product, a lookup or a recurrent layer; use weight-perturbation "
                "or backprop"
            )
        if self.feedback is not None:
            for finding in unpredicted(network, self.feedback.places(network), self.feedback.correction):
                raise ModelRefused(finding)
        self._locality = locality_of(model, network, inputs, self.tangents)
        before = self._guessers
        self._exact = frozenset(site.name for site in network.guessed if self.is_exact and site.is_output)
        self._guessers = {
            site.name: guesser_at(site, self.method, at_lookups=self.embeddings != "isotropic")
            for site in network.guessed
            if site.name not in self._exact
        }
        for name in before.keys() & self._guessers.keys():
            self._guessers[name].memory = before[name].memory
        self.network = network
        perturbed, frozen = (network.pieces, ()) if self.uncovered == "perturb" else ((), network.pieces)
        frozen = (*frozen, *(name for name, p in model.named_parameters() if name in tables and p.requires_grad))
        perturbed = (*perturbed, *network.beside)  # without its elementwise part a gradient would be wrong
        self._pieces = perturbed
        if self.feedback is not None:  # they have the vjp of their piece
            perturbed = ()
        self._perturbed = perturbed
        covered = {*self._pieces, *frozen, *(name for site in network.guessed for name in site.parameters)}
        # Also what is used, but where no derivative leads on to the output.
        unused = tuple(name for name, p in model.named_parameters() if p.requires_grad and name not in covered)
        notes = ()
        if network.mixes:
            notes = (f"samples are not told apart ({network.mixes}): one δ for the batch, which is right, and noisier",)
        return Coverage(tuple(site.name for site in network.guessed), perturbed, frozen, unused, notes)

    @property
    def guessed(self) -> tuple[str, ...]:
        """The sites that have a guess, in the order of the forward."""
        return tuple(self._guessers)

    @property
    def bound(self) -> Network:
        """What the look at the model found."""
        if self.network is None:
            raise RuntimeError("bind comes first: the estimator has not seen the model")
        return self.network

    def _try(self, model: nn.Module, example: Any) -> None:
        """Hold the method's maps to what they must be, on a few samples. Nothing of it is kept."""
        dims: dict[str, int] = {}
        self._once = self._drawn = 0
        samples = batch_size(example)
        try:
            with torch.no_grad():
                for site, s, linear in self._maps(model, example, 0):
                    dims[site.name] = linear.noise_dim
                    if self._guessers[site.name].needs_cut and not site.has_samples:
                        self._once = max(self._once, linear.noise_dim * s.element_size() // samples)
                    elif site.has_samples and linear.noise_dim % DRAWN_AT_ONCE:
                        self._drawn = max(self._drawn, linear.noise_dim * s.element_size())
                    if self._guessers[site.name].guess is self.method:
                        check_linear(linear, site.name, s)
        finally:
            self.load_state({})
        self.tangents.refuse_above(dims)

    @torch.no_grad()
    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        return self._on_any_way(model, batch.inputs, lambda: self._estimate(model, loss, batch, rng, {}))

    def _on_any_way(self, model: nn.Module, inputs: Any, call: Callable[[], Made]) -> Made:
        """What forwards of these inputs make, whichever way values lead them."""
        back = state_of(model, self.bound.buffers, first_tensor(inputs).device)
        for whole in (False, True):
            try:
                return call()
            except UnknownSite as branch:
                self.processes.refuse_branch(str(branch))
                # A branch on values has led another way than the first look's: look at this batch as well, at a few of
                # its samples, and where these do not go that way either, at all.
                back()
                self._take_up(model, self.bound.joined(look(model, inputs, whole=whole)), inputs)
        return call()

    def _estimate(
        self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng, gradients: dict[str, Tensor]
    ) -> Estimate:
        """The estimate, whose gradients are put in there."""
        own = self.processes.own(batch)
        first = self.method.first_samples if isinstance(self.method, GuessMethod) and self._guesses else 0
        if self.processes.size > 1 and first:
            self.linear_maps(model, batch.rows(slice(first)).inputs, rng.step)
        plan = self._whole or self._plan(model, loss, own)
        in_parts = InParts(
            model,
            self.bound,
            self.processes.loss(loss),
            self._guessers,
            self.feedback,
            partial(self._step, model),
            self.processes,
            pieces=self._pieces,
            streams=self.memory == "replay" and self.bound.is_chain,
        )
        with read_once():
            if plan.rows < batch.size or not self.tangents.single:
                read_of_whole(model, self.bound, batch)
            return in_parts.estimate(own, batch.size, rng, plan, self._directions(model, rng), gradients)

    def _step(
        self, model: nn.Module, batch: Batch, rng: StepRng, directions: Mapping[str, Tensor], **more: Any
    ) -> Step:
        guessers, tangents, exact = self._guessers, self.tangents, self._exact
        return Step(
            model, self.bound, guessers, tangents, batch, rng, directions, exact=exact, locality=self._locality, **more
        )

    @property
    def _guesses(self) -> bool:
        """Whether anything is guessed."""
        return self.feedback is None or bool(self.feedback.correction)

    @property
    def _needs_cut(self) -> bool:
        return any(one.needs_cut for one in self._guessers.values())

    def _plan(self, model: nn.Module, loss: Loss, batch: Batch) -> Plan:
        network, size = self.bound, batch.size
        has_passes = self.feedback is None and not self._needs_cut
        at_once = Plan(size, self.memory == "replay" and has_passes)
        if self.memory == "store" or network.mixes or size < FEW or size * network.numbers <= FLOOR[self.memory]:
            return at_once
        rows = self._most_rows(model, loss, batch, replayed=at_once.replayed)
        replayed = at_once.replayed or (has_passes and rows < size)
        if replayed and not at_once.replayed:
            rows = self._most_rows(model, loss, batch, replayed=True)
        rows = min(rows, ROWS) if self.memory == "replay" else rows
        if not network.has_parts or not all(one.takes_parts or not self._guesses for one in self._guessers.values()):
            rows = size
        return Plan(rows, replayed)

    def _most_rows(self, model: nn.Module, loss: Loss, batch: Batch, *, replayed: bool) -> int:
        """Samples that may be taken at once."""
        if replayed not in self._measured:
            self._measured[replayed] = self._measure(model, loss, batch, replayed=replayed)
        seen, key = self._measured[replayed], (batch.size, replayed)
        if key not in self._rows:
            self._rows[key] = batch.size if seen is None else seen.rows(batch.size, gradients=self.memory == "auto")
        return self._rows[key]

    def _measure(self, model: nn.Module, loss: Loss, batch: Batch, *, replayed: bool) -> Measured | None:
        """What this estimate, and what it is held to, hold of a few samples. None where these alone do not go."""
        back = state_of(model, self.bound.buffers, batch.device)
        trial = copy(self)
        trial.method = getattr(self.method, "in_trial", self.method)
        trial.processes, trial._guessers, trial._whole = ALONE, {}, Plan(FEW, replayed)
        trial._take_up(model, self.bound, batch.inputs)

        def estimate(samples: int, gradients: dict[str, Tensor]) -> None:
            trial.feedback = deepcopy(self.feedback)  # the same each time, whatever it has learned
            load_memories(trial._guessers, {})
            back()  # a branch on what is drawn leads the same way again
            trial._estimate(model, loss, batch.rows(slice(samples)), Streams(0).at(0), gradients)

        try:
            with read_once():
                read_of_whole(model, self.bound, batch)
                return measured(
                    model,
                    loss,
                    batch,
                    estimate,
                    once=self._once + self.bound.numbers_drawn,
                    drawn=self._drawn,
                    streams=len(self._guessers) * self.tangents.number,
                    inference=self.memory == "replay",
                )
        except UnknownSite:
            raise
        except Exception:  # what is wrong with the model or loss itself is said by the estimate
            return None
        finally:
            back()

    def _directions(self, model: nn.Module, rng: StepRng) -> dict[str, Tensor]:
        """Of the parameters that no site covers."""
        named = ((name, model.get_parameter(name)) for name in self._perturbed)
        return {name: rng.normal("weight", name, tuple(one.shape), one) for name, one in named}

    @torch.no_grad()
    def dual_pass(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> tuple[Step, Derivatives]:
        """The passes that `estimate` makes of the same arguments, of the whole batch, with what they drew."""
        step = self._step(model, batch, rng, self._directions(model, rng))
        return step, step.derivatives(loss)

    @torch.no_grad()
    def predicted(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> dict[str, Tensor]:
        """b at every site [samples, *shape] for the whole batch, of which nothing is learned. Without feedback: {}."""
        if self.feedback is None:
            return {}
        back = state_of(model, self.bound.buffers, batch.device)
        found = self.feedback.preview(model, self.bound, loss, batch, rng).at
        back()
        return found

    @torch.no_grad()
    def drawn(
        self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The first guess y and the estimate ĝ at every guessed site, [samples, *shape], of the whole batch."""
        b = self.predicted(model, loss, batch, rng)
        alpha = 1.0 if self.feedback is None else self.feedback.correction
        if not alpha:
            return {}, {name: b[name] for name in self._guessers}
        step, found = self.dual_pass(model, loss, batch, rng)
        y = {name: one.clone() for name, one in step.guesses.items()}  # combining writes into one that stands alone
        if not b:
            return y, {name: step.estimate_at(name, found) for name in y}
        found = step.corrected(found, b)
        return y, {name: b[name] + alpha * step.estimate_at(name, found) for name in y}

    def linear_maps(self, model: nn.Module, inputs: Any, step: int) -> dict[str, LinearMap]:
        """The guess of every site as a linear map, from which exact moments follow.

        Args:
            model: the model, as it is after `step` updates.
            inputs: those of a batch.
            step: number of the parameter update.

        Returns:
            By site, a map [batch, noise_dim(, columns)] -> [batch, *shape(, columns)].

        Raises:
            TypeError: for a method that is not linear in its noise.
        """
        with torch.no_grad():
            maps = self._on_any_way(model, inputs, lambda: list(self._maps(model, inputs, step)))
        return {site.name: linear for site, _, linear in maps}

    def _maps(self, model: nn.Module, inputs: Any, step: int) -> Iterator[tuple[Site, Tensor, LinearMap]]:
        at = self._step(model, Batch(inputs, None), Streams(0).at(step), {})
        found: dict[str, tuple[Site, Tensor, LinearMap]] = {}
        back = state_of(model, self.bound.buffers, at.batch.device)
        with full_precision(at.batch.device):
            for site, s, weight, upstream in at.cut():
                found[site.name] = site, s, at.linear(site, s, weight, upstream)

        def show(site: Site, seen: Seen, s: Tensor) -> None:
            if site.name in self._guessers and site.name not in found:
                with torch.no_grad(), full_precision(s):
                    found[site.name] = site, wide(s), at.linear(site, wide(s), seen.use.weight)

        with forward_ad.dual_level():
            at.run(PlainPass(self.bound, show, at.samples), inputs)
        back()
        yield from (found[name] for name in self._guessers if name in found)

    def find_fault(self, model: nn.Module, batch: Batch, rng: StepRng) -> str | None:
        """The first site whose guess is not finite in that step's estimate, drawn again from its key; None if none."""
        with torch.no_grad():
            back = state_of(model, self.bound.buffers, batch.device)
            names = list(self._step(model, batch, rng, {}).guesses_not_finite())
            back()
        return f"site '{names[0]}': the guess is not finite" if names else None

    def state(self) -> dict[str, Tensor]:
        """As Estimator has it: the memories of the guesses."""
        return memories_of(self._guessers) | ({} if self.feedback is None else self.feedback.state())

    def load_state(self, state: dict[str, Tensor]) -> None:
        load_memories(self._guessers, state if self.feedback is None else self.feedback.load_state(state))
