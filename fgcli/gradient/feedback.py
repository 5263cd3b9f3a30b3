"""Feedback: predictions of the gradient from what earlier steps have told (design.md's b).

e = ∂L/∂(output) is exact and local. What a layer's input x_k does to the output is not: a rule of feedback says what
∂L/∂x_k is, from e. The prediction at a site pulls these back through the pieces that start there: activations with
their slopes, normalisation, residual sums, pooling, attention's products; no weight of two or more axes is among them.
A rule may ask for the pull-back through a layer's own weight, too: `layers` = 1 puts W_kᵀ b_k in place of what it says
at k, b_k the prediction without it. As many as the network is deep would be backpropagation; a rule that goes through
all of them (`layers` = None) puts a matrix of its own in place of each weight.

Of the sites that only the output is reached from, the gradient is exact, and so it is `layers` + 1 uses before them.

Where the outputs are a sequence of tokens, rows are tokens: e is a token's, and what a rule learns is shared by them.
"""

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.buffers import untouched
from fgcli.gradient.errors import GuessFault, OptionRefused
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.feedback_rule import FeedbackRule, Place
from fgcli.gradient.loss import OutputGradient, output_gradient, sum_of
from fgcli.gradient.nested import first_tensor, leaves, mapped, primal_of, tangent_of
from fgcli.gradient.own_loss import own_loss
from fgcli.gradient.passes import Seen
from fgcli.gradient.pieces import Noise, NoisyPass, by_row, through
from fgcli.gradient.precision import wide
from fgcli.gradient.randomness import StepRng, Streams
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.streamed import Streamed
from fgcli.gradient.sweeps import AskingPieces, Sweeps
from fgcli.gradient.upstream import End
from fgcli.gradient.uses import run

WARM_UP = 24
"""Steps at the start whose predictions are the measure of growth."""
RUNAWAY = 1e4
"""Times the predictions of the first steps that max |b| / max |e| may grow to, before that is taken for divergence."""


@dataclass
class Prediction:
    """What feedback says of one batch."""

    losses: Tensor
    """[batch], or the mean without axes."""
    at: dict[str, Tensor]
    """b by site, [samples, *shape of s_i]: exact where only the output is reached."""
    seen: dict[str, Seen]
    """The uses, by site."""
    of_parameters: dict[str, Tensor]
    """Gradients of the parameters that lie in the pieces, by name."""


class Feedback:
    """Predictions of the gradient at every site by a rule, and the rule's learning.

    Args:
        rule: the rule.
        correction: α in [0, 1]: the share of the guess's own estimate of g - b; 1 is unbiased wherever the guess is.
    """

    def __init__(self, rule: FeedbackRule, correction: float = 0.0) -> None:
        self.rule, self.correction, self.steps = rule, correction, 0
        self.means: dict[str, Tensor] = {}
        """What the rule learns of the present batch."""
        self._norms: dict[str, float] = {}

    def places(self, network: Network) -> list[str]:
        """Where a rule predicts: the layers that other sites reach, but for those whose way to the output is exact."""
        reached = {name for site in network.guessed for name in site.reaches}
        sites = [one for one in network.sites.values() if one.name in reached and one.has_samples]
        return [one.name for one in sites if not (one.is_output and self.rule.exact_last)]

    @property
    def streams(self) -> bool:
        """Whether a site can be let go of as soon as the forward has come a few uses further."""
        return self.rule.layers is not None and self.rule.exact_last

    def try_on(self, model: nn.Module, network: Network, inputs: Any) -> None:
        """Predict once, of which nothing is kept. OptionRefused for what has not the shape of a layer's input."""
        loss = own_loss if network.own_loss else sum_of
        with torch.no_grad(), untouched(model, first_tensor(inputs).device):
            copy.deepcopy(self).predict(model, network, loss, Batch(inputs, None), Streams(0).at(0))

    def begin(self) -> None:
        """Before the parts of a batch."""
        self.means = {}

    def end(self, samples: int) -> None:
        """After them."""
        self.rule.update(self.means, samples, self.steps)
        self.begin()
        self.steps += 1

    def predict(
        self,
        model: nn.Module,
        network: Network,
        loss: Loss,
        batch: Batch,
        rng: StepRng,
        *,
        of_loss: OutputGradient | None = None,
        share: float = 1.0,
    ) -> Prediction:
        """b at every site for a batch, or a part of it, from one forward.

        Args:
            model: the model.
            network: what the look at it found.
            loss: of the model's outputs and the batch's targets.
            batch: the batch, or the part.
            rng: the streams of this step.
            of_loss: the loss's derivative, where it is known from the whole batch.
            share: the part's of the batch.

        Raises:
            GuessFault: where the prediction has grown without bound, before anything is updated.
        """
        seen = _Batch(self, network, batch, rng, share)
        with forward_ad.dual_level() if seen.noise is not None else nullcontext():
            cut = AskingPieces(model, batch.inputs, network, seen.noise)
            outputs = seen.arrive(cut.outputs, loss, of_loss)
        seen.noise = cut.noise = None
        sweeps = Sweeps(cut, leaves(outputs), seen.of_loss)
        b = sweeps.back(seen.through) if self.rule.layers is None else self._swept(sweeps, seen)
        at = {name: network.sites[name].by_sample(one, seen.samples) for name, one in b.items()}
        return Prediction(seen.of_loss.losses, at, {name: cut.seen(name) for name in cut.uses}, sweeps.of_parameters)

    def _swept(self, sweeps: Sweeps, seen: "_Batch") -> dict[str, list[Tensor]]:
        """b at every site: what the rule predicts, pulled back by as many sweeps as it asks for."""
        cut, network = sweeps.cut, seen.network
        exact = {name: one for name, one in sweeps.from_output().items() if name not in seen.places}
        ends = {name: end for name, end in cut.ends.items() if sweeps.is_attached(name)}
        known = {name: partial(list, through(ends[name], exact[name])) for name in ends if name in exact}
        rest = [name for name in ends if name in seen.places]
        asked = {name: partial(seen.predict, ends[name]) for name in rest} | known
        shown, more = self.rule.needs_layers(self.steps), self.rule.layers or 0
        sweeping = bool(seen.places) and (shown or more > 0)
        b = sweeps.pulled(asked, seen.places if sweeping else None, last=not sweeping)
        settled: dict[str, list[Tensor]] = {}
        for layer in range(max(more, shown) if sweeping else 0):
            settled |= {name: one for name, one in b.items() if set(network.sites[name].reaches) <= known.keys()}

            def passed(name: str, before: dict[str, list[Tensor]] = b, layer: int = layer) -> list[Tensor]:
                u = through(ends[name], before.pop(name))
                if shown and not layer:
                    seen.learn_from_layer(ends[name], u)
                return u

            rest = [name for name in rest if name not in known]
            if layer < more:
                exactly = {name: partial(list, passed(name)) for name in rest if name in settled and layer + 1 < more}
                known |= exactly
                asked = {name: partial(passed, name) for name in rest if name not in exactly} | known
            else:
                for name in rest:
                    passed(name)
            last = layer + 1 >= more
            to = [name for name in (cut.going if last else seen.places) if name not in settled]
            b = sweeps.pulled(asked, to, last=last) | settled
        return b

    def preview(self, model: nn.Module, network: Network, loss: Loss, batch: Batch, rng: StepRng) -> Prediction:
        """What `predict` says of a batch, of which nothing is learned; the arguments are those of `predict`."""
        before = self.means, dict(self._norms)
        try:
            return self.predict(model, network, loss, batch, rng)
        finally:
            self.means, self._norms = before

    def stream(
        self,
        model: nn.Module,
        network: Network,
        loss: Loss,
        batch: Batch,
        rng: StepRng,
        done: Callable[[Site, Seen, Tensor, dict[str, Tensor]], None],
        back: Callable[[], None],
        *,
        of_loss: OutputGradient | None = None,
        share: float = 1.0,
    ) -> Tensor:
        """The same in a chain, site by site, by a forward that stores nothing and one that lets go of what is done.

        Args:
            model: as of `predict`.
            network: as of `predict`.
            loss: as of `predict`.
            batch: as of `predict`.
            rng: as of `predict`.
            done: is given each site, its use, b [samples, *shape] there, and gradients of parameters in pieces.
            back: brings what layers draw from, and buffers, back to where they are now.
            of_loss: as of `predict`.
            share: as of `predict`.

        Returns:
            The losses.
        """
        seen = _Batch(self, network, batch, rng, share, keep=False)
        with forward_ad.dual_level() if seen.noise is not None else nullcontext():
            seen.arrive(run(model, batch.inputs, NoisyPass(network, seen.noise, seen.samples)), loss, of_loss)
        back()

        def finish(site: Site, at: Seen, b: list[Tensor], of_parameters: dict[str, Tensor]) -> None:
            done(site, at, site.by_sample(b, seen.samples), of_parameters)

        def learn(end: End, u: list[Tensor]) -> None:
            if end.site.name in seen.places:
                seen.learn_from_layer(end, u)

        shown = learn if self.rule.needs_layers(self.steps) else None
        Streamed(model, batch.inputs, network, seen.of_loss, self.rule.layers or 0, seen.predict, finish, shown)
        return seen.of_loss.losses

    def gather(self, means: Mapping[str, Tensor], share: float) -> None:
        """Means over a part's samples."""
        for name, mean in means.items():
            weighted = mean if share == 1 else mean * share
            self.means[name] = self.means[name] + weighted if name in self.means else weighted

    def notice_growth(self, name: str, predicted: Tensor, e: Tensor) -> None:
        """GuessFault where a prediction has outgrown those of the first steps by far."""
        # The largest entries: the squares of a nearly perfect e would underflow.
        size = float(_largest(predicted) / _largest(e).clamp_min(torch.finfo(e.dtype).tiny))
        if self.steps < WARM_UP and math.isfinite(size):
            self._norms[name] = max(self._norms.get(name, 0.0), size)
        first = self._norms.get(name)
        grown = not math.isfinite(size) or (first and size > RUNAWAY * first)
        if grown and e.isfinite().all():  # else the loss has gone astray, and no prediction is to blame
            if first is None:
                raise GuessFault(name, "feedback is not finite at the start")
            raise GuessFault(
                name,
                f"feedback has grown to {size:.3g} times the output's gradient ({first} "
                "at the start): lower feedback_rate or the learning rate",
            )

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        norms = {f"feedback-norm:{name}": torch.tensor(one) for name, one in self._norms.items()}
        of_rule = {f"feedback:{name}": one for name, one in self.rule.state().items()}
        return {"feedback-steps": torch.tensor(self.steps), **of_rule, **norms}

    def load_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take up one's own part of a state; the rest is given back."""
        self._norms, self.steps, rest, of_rule = {}, 0, {}, {}
        for key, value in state.items():
            kind, _, name = key.partition(":")
            if kind == "feedback-steps":
                self.steps = int(value)
            elif kind == "feedback":
                of_rule[name] = value
            elif kind == "feedback-norm":
                self._norms[name] = float(value)
            else:
                rest[key] = value
        self.rule.load_state(of_rule)
        return rest


def _largest(values: Tensor) -> Tensor:
    """max |values|, in a fifteenth of the time that the norm of it takes on a CPU."""
    low, high = torch.aminmax(values)
    return torch.maximum(-low, high)


class _Batch:
    """A batch, or a part of it, as a rule is shown it."""

    def __init__(
        self, feedback: Feedback, network: Network, batch: Batch, rng: StepRng, share: float, *, keep: bool = True
    ) -> None:
        self.feedback, self.network, self.batch, self.rng, self.share = feedback, network, batch, rng, share
        self.samples = network.samples(batch.inputs)
        self.places = feedback.places(network)
        self.noise = Noise(self.places, rng, keep=keep) if feedback.rule.needs_noise(feedback.steps) else None

    def arrive(self, outputs: Any, loss: Loss, of_loss: OutputGradient | None) -> Any:
        """At the output: the loss's derivative, and what the noise tells. The outputs without their tangents."""
        layouts = self.network.output_layouts
        moved = [tangent_of(one) for one in leaves(outputs)] if self.noise is not None else []
        if self.noise is not None:
            with torch.enable_grad():
                outputs = mapped(primal_of, outputs)
        self.of_loss = of_loss or output_gradient(loss, outputs, self.batch.targets, layouts, self.samples)
        parts = self.of_loss.parts
        self.tokens = parts[0].shape[1] if len(parts) == 1 and parts[0].dim() == 3 else 1
        self.e = torch.cat([by_row(one, self.tokens) for one in parts], 1)
        if self.noise is not None:
            self.noise.tokens = self.tokens
            carried = [
                torch.zeros_like(e) if one is None else layout.by_sample(wide(one.detach()), self.samples)
                for layout, one, e in zip(layouts, moved, parts, strict=True)
            ]
            rows = torch.cat([by_row(one, self.tokens) for one in carried], 1)
            self.feedback.gather(self.feedback.rule.learn_from_noise(self.noise, rows, self.samples), self.share)
        return outputs

    def _place(self, end: End) -> tuple[Place, Tensor, Tensor]:
        """The place, e in as many rows as it has, and a tensor [samples, ...] of what ends there."""
        like = end.site.by_sample([one.detach() for one in end.tensors], self.samples)
        rows = by_row(like, self.tokens)
        place = Place(end.site.name, rows.shape[1], self.e.shape[1], self.rng)
        e = self.e if len(rows) == len(self.e) else self.e.unflatten(0, (len(rows), -1)).sum(1)
        return place, e, like

    def predict(self, end: End) -> list[Tensor]:
        """What the rule says at the end of a piece, in the shapes of what ends there."""
        place, e, like = self._place(end)
        predicted = self.feedback.rule.predict(place, e)
        self._check(place.name, "predict", predicted, (len(e), place.dim))
        self.feedback.notice_growth(place.name, predicted, e)
        return end.site.natural(predicted.reshape(like.shape), [one.shape for one in end.tensors])

    def through(self, end: End, gradient: list[Tensor]) -> list[Tensor]:
        """The pull-back through a layer by what the rule has in place of its weight."""
        if end.use is None:
            raise OptionRefused(
                f"this feedback puts a matrix in place of each layer's weight; site '{end.site.name}' is no linear "
                "layer or convolution: use feedback direct or local"
            )
        place, _, _ = self._place(end)
        weight = end.use.args[1].detach()
        instead = self.feedback.rule.weight(place, weight)
        self._check(place.name, "weight", instead, tuple(weight.shape))
        return through(end, gradient, instead)

    def _check(self, site: str, called: str, given: Any, shape: tuple[int, ...]) -> None:
        if not isinstance(given, Tensor) or tuple(given.shape) != shape:
            found = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise OptionRefused(
                f"feedback: {called} of {type(self.feedback.rule).__name__} gave {found} at site '{site}'; it must "
                f"give {list(shape)}, for {self.e.shape[1]} outputs"
            )

    def learn_from_layer(self, end: End, u: list[Tensor]) -> None:
        """Show the rule the pull-back through the layer behind a place."""
        place, e, _ = self._place(end)
        gradient = by_row(end.site.by_sample(u, self.samples), self.tokens)
        # e of a part's mean loss is larger than that of the batch's: all parts are to weigh alike.
        means = self.feedback.rule.learn_from_layer(place, e * self.share, gradient * self.share)
        self.feedback.gather(means, self.share)
