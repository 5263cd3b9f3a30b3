"""The estimate of one batch, part after part, in which only the sum outlives a part."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from fgcli.gradient.buffers import state_of
from fgcli.gradient.draws import Drawn, Kept
from fgcli.gradient.estimator import Batch, Estimate, Loss
from fgcli.gradient.feedback import Feedback
from fgcli.gradient.guesser import Guesser
from fgcli.gradient.loss import OutputGradient
from fgcli.gradient.memory import Plan
from fgcli.gradient.part_draws import Draws, draws_of_parts
from fgcli.gradient.parts import SumOfParts, parts_of
from fgcli.gradient.passes import PlainPass, Seen
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.processes import Processes
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.step import Step
from fgcli.gradient.upstream import CutNetwork, UpstreamOfParts
from fgcli.gradient.uses import run
from fgcli.gradient.whole_loss import of_whole_loss


class InParts:
    """ĝ = b + α Σ_k c_k (δ_k - Σ_j ⟨b_j, y_jk⟩) y_k, without feedback b = 0 and α = 1.

    Args:
        model: the model.
        network: what the look at it found.
        loss: of the model's outputs and the batch's targets.
        guessers: by site.
        feedback: how the gradient is predicted; None: not at all.
        step: Step, with all arguments that are the same for each part.
        processes: that have the batch's rows.
        pieces: trained parameters that lie in no site.
        streams: whether feedback may let go of each site as it is done.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        loss: Loss,
        guessers: Mapping[str, Guesser],
        feedback: Feedback | None,
        step: Callable[..., Step],
        processes: Processes,
        *,
        pieces: tuple[str, ...],
        streams: bool,
    ) -> None:
        self.model, self.network, self.loss, self.guessers, self.feedback = model, network, loss, guessers, feedback
        self.step, self.processes, self.pieces = step, processes, pieces
        self.streams = streams and feedback is not None and feedback.streams and not feedback.correction
        self._guesses = feedback is None or bool(feedback.correction)
        # What it has learned is let go of before all gradients are there, unless other processes' is to be added.
        self._ends_ahead = not (self._guesses or self.streams) and processes.size == 1

    def estimate(
        self,
        batch: Batch,
        samples: int,
        rng: StepRng,
        plan: Plan,
        directions: Mapping[str, Tensor],
        gradients: dict[str, Tensor],
    ) -> Estimate:
        """The estimate of a batch.

        Args:
            batch: this process's rows of it.
            samples: of all processes.
            rng: the streams of the step.
            plan: how much of it is taken at once.
            directions: of parameters that no site covers.
            gradients: what the gradients are put in.
        """
        rows = parts_of(batch.size, plan.rows)
        draws = draws_of_parts(self.network, batch, rows)
        of_loss = of_whole_loss(self.model, self.network, self.loss, batch, rows, draws)
        sum_of_parts = SumOfParts(self.guessers, self.processes.rng(rng, samples), rows, gradients)
        ahead: dict[str, Drawn] = {}
        if len(rows) > 1 and self._guesses:
            once = self.step(batch, rng, {}, keep=False)
            ahead = drawn_once(once, rows, draws)
            sum_of_parts.note(once.statistics, 1.0)
        if self.feedback is not None:
            self.feedback.begin()
        for number, part in enumerate(rows):
            with draws(part):
                own = batch.rows(part) if len(rows) > 1 else batch
                share, of_part = own.size / samples, of_loss[number] if of_loss else None
                if self.feedback is None:
                    self._add(own, of_part, sum_of_parts, share, directions, ahead, replayed=plan.replayed)
                else:
                    ends = samples if self._ends_ahead and number == len(rows) - 1 else 0
                    self._add_with_feedback(self.feedback, own, of_part, sum_of_parts, share, ahead, ends=ends)
            sum_of_parts.rng.advance(own.size)
        sum_of_parts.finish(self.processes, {} if self.feedback is None else self.feedback.means)
        if self.feedback is not None and not self._ends_ahead:
            self.feedback.end(samples)
        return sum_of_parts.estimate(of_loss[0].losses if of_loss else None)

    def _add(
        self,
        part: Batch,
        of_loss: OutputGradient | None,
        sum_of_parts: SumOfParts,
        share: float,
        directions: Mapping[str, Tensor],
        ahead: Mapping[str, Drawn],
        *,
        replayed: bool,
    ) -> None:
        step = self.step(part, sum_of_parts.rng, directions, keep=not replayed, ahead=ahead)
        found = step.derivatives(self.loss, of_loss)
        for gradients in step.second_pass(found) if replayed else step.gradients(found):
            sum_of_parts.add(gradients, share)
        sum_of_parts.end(step.losses, share, found.delta.squeeze(1), step.statistics)

    def _add_with_feedback(
        self,
        feedback: Feedback,
        part: Batch,
        of_loss: OutputGradient | None,
        sum_of_parts: SumOfParts,
        share: float,
        ahead: Mapping[str, Drawn],
        *,
        ends: int,
    ) -> None:
        """A part's own estimate, whose forwards have one state of layers and buffers.

        `ends`: the samples of the batch where this is its last part, and feedback may learn before there are gradients.
        """
        model, network, loss, rng = self.model, self.network, self.loss, sum_of_parts.rng
        trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        again = self._guesses or self.streams  # a second forward
        back = state_of(model, network.buffers, part.device) if again else lambda: None

        def add(site: Site, seen: Seen, b: Tensor, of_parameters: Mapping[str, Tensor]) -> None:
            sum_of_parts.add({name: one for name, one in of_parameters.items() if name in self.pieces}, share)
            if site.is_guessed:
                sum_of_parts.add(seen.gradients(site, wide(b), trained), share)

        if self.streams:
            losses = feedback.stream(model, network, loss, part, rng, add, back, of_loss=of_loss, share=share)
            sum_of_parts.end(losses, share)
            return
        predicted = feedback.predict(model, network, loss, part, rng, of_loss=of_loss, share=share)
        if ends:
            feedback.end(ends)
        step, found = None, None
        if self._guesses:
            back()
            step = self.step(part, rng, {}, ahead=ahead)
            found = step.corrected(step.derivatives(loss, of_loss), predicted.at)
        add_pieces = predicted.of_parameters
        for site in reversed(network.guessed):  # the first may be a large table: the others are let go of before
            if site.name not in predicted.seen:
                continue
            b = wide(predicted.at.pop(site.name))
            if step is not None and found is not None and site.name in step.draws:
                b = b + feedback.correction * step.estimate_at(site.name, found)
            add(site, predicted.seen.pop(site.name), b, add_pieces)
            add_pieces = {}
        delta = None if found is None else found.delta.squeeze(1)
        sum_of_parts.end(predicted.losses, share, delta, {} if step is None else step.statistics)


def read_of_whole(model: nn.Module, network: Network, batch: Batch) -> None:
    """Read of the whole batch, each sample once, what forwards of its parts or repetitions are given then."""
    if network.reads:
        back = state_of(model, network.buffers, batch.device)
        run(model, batch.inputs, PlainPass(network, lambda *_: None, network.samples(batch.inputs)))
        back()


def drawn_once(step: Step, parts: Sequence[slice], draws: Draws) -> dict[str, Drawn]:
    """The guesses of sites without samples whose W̃ is of the cut network, for the step's batch in parts."""
    found: dict[str, Drawn] = {}

    def cut(rows: slice) -> CutNetwork:
        with draws(rows):
            return CutNetwork(step.model, step.batch.rows(rows).inputs, step.network)

    sites = [one.site for one in step.guessers.values() if one.needs_cut and not one.site.has_samples]
    few = cut(slice(0, 1)) if sites else None
    for site in sites:
        if few is not None and site.name in few.going:
            s, weight = wide(few.s(site)), few.uses[site.name].weight
            upstream = UpstreamOfParts(site, parts, cut, few.upstream(site))
            with full_precision(s):
                found[site.name] = Kept(step.draw(site, s, weight, range(1), upstream).all())
    return found
