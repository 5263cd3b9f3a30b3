"""The forwards over one batch, or a part of it: δ along every tangent, and the guesses that it belongs to.

With one tangent, one pass. With several, rows of one batch carry them all (fgcli.gradient.passes), `tangent_chunk` of
them at a time; where samples meet, a layer's draws have no sample to belong to, or the forward looks at the batch's
size, each tangent has a pass of its own.

What has one direction for the whole batch (parameters that no site covers, sites without samples) shares the tangent of
a single guess. Beside several it has a tangent of its own.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.buffers import BufferState
from fgcli.gradient.draws import Drawn, Gram, Kept, joined
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.guess import GuessMethod, Layer, LinearMap
from fgcli.gradient.guesser import Guesser
from fgcli.gradient.local_losses import Locality
from fgcli.gradient.loss import OutputGradient, output_gradient
from fgcli.gradient.nested import leaves, pulled, tangent_of
from fgcli.gradient.passes import OneTangent, PlainPass, Seen, SeveralTangents, repeated
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.randomness import StepRng, layers_again
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.upstream import CutNetwork, UpstreamJacobian
from fgcli.gradient.uses import Outputs, Pass, one_way, run


@dataclass(frozen=True)
class Derivatives:
    """What the passes with dual numbers gave."""

    delta: Tensor
    """δ [samples, K], along each tangent."""
    coefficients: Tensor
    """c [samples, K]: the guess of g_{i,b} is Σ_k c_{b,k} y_{i,b,k}."""
    along: Tensor
    """δ [samples] that what has one direction for the batch multiplies; of a single tangent, the sites' is in it."""
    at: Mapping[str, slice] = field(default_factory=dict)
    """With `combine` sitewise, the columns of each site."""
    parts: Tensor | None = None
    """With local losses, δ [samples, K, parts], along each tangent, of each part of each loss."""


class Step:
    """All forwards that the estimate of a batch, or of a part of it, takes: layers draw the same in each.

    Args:
        model: the model.
        network: what the look at it found.
        guessers: by the site's name.
        tangents: how many, and how they are combined.
        batch: the batch, or the part.
        rng: the streams of this step.
        directions: of the parameters that no site covers, by name.
        exact: the sites whose gradient is taken from the output's, not guessed: no other lies on the way.
        keep: whether what the passes see and draw is kept, or only what the combination asks for.
        ahead: guesses that are there already: of sites that all parts of a batch have one of.
        locality: which of the local losses each site reaches, of a model that has some.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        guessers: Mapping[str, Guesser],
        tangents: Tangents,
        batch: Batch,
        rng: StepRng,
        directions: Mapping[str, Tensor],
        *,
        keep: bool = True,
        exact: Collection[str] = (),
        ahead: Mapping[str, Drawn] | None = None,
        locality: Locality | None = None,
    ) -> None:
        self.locality = locality
        self._parts: list[Tensor] = []
        self.model, self.network, self.guessers, self.tangents = model, network, guessers, tangents
        self.batch, self.rng, self.directions, self.keep = batch, rng, directions, keep
        self.samples = network.samples(batch.inputs)
        self.parameters = dict(model.named_parameters())
        self.trained = {name: one for name, one in self.parameters.items() if one.requires_grad}
        self.statistics: dict[str, Mapping[str, Tensor]] = {}
        """What the guesses tell of this batch, by site."""
        self.seen: dict[str, Seen] = {}
        self.draws: dict[str, list[Drawn]] = {}
        self.exact, self.ahead = exact, ahead or {}
        self.last: dict[str, tuple[Seen, Tensor]] = {}
        """Of the sites of `exact`: their use, and the gradient there [samples, *shape]."""
        self._grams: dict[str, Gram] = {}
        self._again = layers_again(batch.device) if network.drawing else lambda: None
        self._buffers = BufferState(model, network.buffers)
        self._ran = False
        self._counts: Mapping[str, int] | None = None
        self._by_row = network.by_rows and not (tangents.single or network.mixes or network.draws_apart)
        self._of_loss: OutputGradient | None = None

    @property
    def losses(self) -> Tensor:
        """[batch], or without axes where the loss gives a mean alone; known once `derivatives` has run."""
        assert self._of_loss is not None
        return self._of_loss.losses

    def run(self, one_pass: Pass, inputs: Any) -> Outputs:
        """One forward, from the state of layers and generators that the first one had."""
        self._go_back()
        outputs = run(self.model, inputs, one_pass)
        self._counts = one_way(self._counts, one_pass.counts)
        return outputs

    def _go_back(self) -> None:
        if self._ran:
            self._again()
            self._buffers.restore()
        self._ran = True

    def derivatives(self, loss: Loss, of_loss: OutputGradient | None = None) -> Derivatives:
        """δ along all tangents, and the coefficients that they make.

        Args:
            loss: of the model's outputs and the batch's targets.
            of_loss: the loss's derivative, where it is known from the whole batch.
        """
        self._of_loss = of_loss
        sitewise = self.tangents.combine == "sitewise"
        together = (self.tangents.single or self._by_row) and not sitewise
        one_by_one = (range(k, k + 1) for k in range(self.tangents.number))
        chunks = list(self.tangents.parts if self._by_row or together else one_by_one)
        sites = [name for name in self.guessers if sitewise and not self._is_shared(self.network.sites[name])]
        starts = sites or [""]
        found, along = [], None
        for part in chunks:
            ahead = self._draws_ahead(part)
            for name in starts:
                delta, beside = self._pass(loss, part, together and part.start == 0, ahead, name)
                found.append(delta)
                along = beside if along is None else along
        if not together and (self.directions or any(map(self._is_shared, self.network.guessed))):
            along = self._pass(loss, range(0), True, self._draws_ahead(range(1)))[1]
        # [samples, starts · K], of chunks of tangents that each have all starts in turn: a start's tangents together.
        delta = torch.cat([torch.cat(found[first :: len(starts)], 1) for first in range(len(starts))], 1)
        along = delta.new_zeros(len(delta)) if along is None else along
        number = self.tangents.number
        at = {name: slice(i * number, (i + 1) * number) for i, name in enumerate(sites)}
        parts = torch.cat(self._parts, 1) if self._parts else None
        return Derivatives(delta, self._coefficients(delta, at), along, at, parts)

    def _pass(
        self, loss: Loss, part: range, shared: bool, ahead: Mapping[str, Drawn], start: str = ""
    ) -> tuple[Tensor, Tensor | None]:
        """δ [samples, len(part)] along the tangents of `part`, and [samples] along what is shared, if asked for.

        `ahead` are guesses that are made already; `start` is the one site where the tangents start, if it is one.
        """
        perturb = partial(self._perturb, part, shared, ahead, start)
        directions = self.directions if shared else {}
        rows, inputs = 1, self.batch.inputs
        if self._by_row and part:
            beside = bool(directions) or any(not site.has_samples for site in self.network.guessed)
            rows = len(part) + (shared and beside)
            one_pass = SeveralTangents(self.network, perturb, directions, self.samples, len(part), rows, self.exact)
            inputs = repeated(inputs, rows, self.samples)
        else:
            one_pass = OneTangent(self.network, perturb, directions, self.samples, self.exact)
        with forward_ad.dual_level():
            outputs = self.run(one_pass, inputs)
            if isinstance(one_pass, SeveralTangents):
                one_pass.end()
            if self._of_loss is None:
                layouts, targets = self.network.output_layouts, self.batch.targets
                self._of_loss = output_gradient(loss, outputs, targets, layouts, self.samples, rows)
            if not self.last:
                self._pull_to_last(one_pass.last, outputs, rows)
            moved = [tangent_of(one) for one in leaves(outputs)]
            delta = self._of_loss.along(moved, rows)
            if self.locality is not None and part:
                parts = self.locality.columns(self._of_loss, moved[0], rows)
                alone = parts[:, len(part) :] if rows > len(part) else 0.0
                self._parts.append(parts[:, : len(part)] - alone)
        if self.tangents.single or not part:
            return delta, delta[:, 0]
        if rows > len(part):
            alone = delta[:, len(part)]
            return delta[:, : len(part)] - alone.unsqueeze(1), alone
        return delta, None

    def _pull_to_last(self, last: Mapping[str, tuple[Seen, list[Tensor]]], outputs: Outputs, rows: int) -> None:
        """The exact gradient of the last sites: a vjp of what lies between them and the output."""
        assert self._of_loss is not None
        if not last:
            return
        with torch.enable_grad():
            layouts = self.network.output_layouts
            values = [
                layout.by_sample(forward_ad.unpack_dual(one).primal, rows * self.samples)[: self.samples]
                for layout, one in zip(layouts, leaves(outputs), strict=True)
            ]
        flat = [leaf for _, some in last.values() for leaf in some]
        found = iter(pulled(zip(values, self._of_loss.parts, strict=True), flat, keep=False))
        for name, (seen, some) in last.items():
            gradient = self.network.sites[name].by_sample([next(found) for _ in some], self.samples * seen.rows)
            self.last[name] = seen, gradient[: self.samples]

    def _is_shared(self, site: Site) -> bool:
        """Whether a site has one guess for the batch, beside several for those with samples."""
        return not site.has_samples and not self.network.mixes and not self.tangents.single

    def _perturb(
        self, part: range, shared: bool, ahead: Mapping[str, Drawn], start: str, site: Site, at: Seen, s: Tensor
    ) -> Tensor | None:
        alone = self._is_shared(site)
        first = shared if alone else part.start == 0 and len(part) > 0
        if self.keep and first and site.trained:
            self.seen[site.name] = at.kept(site)
        here = shared if alone else len(part) > 0 and start in ("", site.name)
        if site.name not in self.guessers or not here:
            return None
        with torch.no_grad(), full_precision(s):
            drawn = ahead.get(site.name)
            if drawn is None:
                drawn = self.draw(site, wide(s), at.use.weight, range(1) if alone else part)
            if self.keep:
                self.draws.setdefault(site.name, []).append(drawn)
            elif first and not alone and self.tangents.combine != "mean":
                every = range(self.tangents.number)
                whole = drawn if part == every else self.draw(site, wide(s), at.use.weight, every)
                self._grams[site.name] = whole.gram(self.tangents)
            return drawn.all() if self._by_row and not alone else drawn.first()

    def draw(
        self, site: Site, s: Tensor, weight: Tensor, part: range, upstream: UpstreamJacobian | None = None
    ) -> Drawn:
        """The guesses at a site for some of the tangents, at s [samples, *shape]."""
        guesser, layer = self.guessers[site.name], self._layer(site, s, weight)
        linear = self._linear(layer, upstream) if isinstance(guesser.guess, GuessMethod) else None
        return guesser.draw(layer, upstream, linear, self.rng, self.tangents, part)

    def linear(self, site: Site, s: Tensor, weight: Tensor, upstream: UpstreamJacobian | None = None) -> LinearMap:
        """The guess of a site as a linear map at s [samples, *shape]."""
        return self._linear(self._layer(site, s, weight), upstream)

    def _linear(self, layer: Layer, upstream: UpstreamJacobian | None) -> LinearMap:
        linear = self.guessers[layer.name].linear(layer, upstream)
        self.statistics[layer.name] = linear.statistics
        return linear

    def _layer(self, site: Site, s: Tensor, weight: Tensor) -> Layer:
        following = None if site.link is None else self.parameters[site.link.next_weight].detach()
        shared = not (site.has_samples or self.network.mixes)
        return Layer(site.name, tuple(s.shape[1:]), weight, self.rng.step, following, s, shared)

    def cut(self) -> Iterator[tuple[Site, Tensor, Tensor, UpstreamJacobian]]:
        """Site, s, weight and W̃ of the guesses that need the cut network, whose products no dual level allows."""
        guessers = [one for name, one in self.guessers.items() if one.needs_cut and name not in self.ahead]
        if not guessers:
            return
        keep = any(one.reads_output for one in guessers)
        self._go_back()
        with self._buffers.apart():
            cut = CutNetwork(self.model, self.batch.inputs, self.network, keep=keep)
        self._counts = one_way(self._counts, cut.counts)
        for site in cut.in_turn([one.site for one in guessers]):
            yield site, wide(cut.s(site)), cut.uses[site.name].weight, cut.upstream(site)

    def _draws_ahead(self, part: range) -> dict[str, Drawn]:
        found = dict(self.ahead)
        for site, s, weight, upstream in self.cut():
            with full_precision(s):
                drawn = self.draw(site, s, weight, part, upstream)
                if not isinstance(drawn, Kept) and len(part) == self.tangents.number:
                    # Not the map, which holds W̃ and all that its operations have computed.
                    gram = drawn.gram(self.tangents) if self.tangents.are_orthogonal else None
                    drawn = Kept(drawn.all(), gram)
            found[site.name] = drawn
        return found

    def _coefficients(self, delta: Tensor, at: Mapping[str, slice]) -> Tensor:
        if self.tangents.combine == "mean":
            return self.tangents.coefficients(delta)
        with full_precision(delta):
            grams = self._grams or {
                name: joined(some).gram(self.tangents)
                for name, some in self.draws.items()
                if not self._is_shared(self.network.sites[name])
            }
            if at:
                pairs = [(delta[:, columns], grams[name]) for name, columns in at.items()]
                return torch.cat([self.tangents.coefficients(one, gram.matrix, gram.n) for one, gram in pairs], 1)
            if not grams:  # what is shared has a tangent of its own
                return torch.zeros_like(delta)
            whole = torch.stack([one.matrix for one in grams.values()]).sum(0)
            return self.tangents.coefficients(delta, whole, sum(one.n for one in grams.values()))

    def gradients(self, found: Derivatives) -> Iterator[dict[str, Tensor]]:
        """The weights' gradients, a site at a time: each use's own vjp with ĝ = Σ_k c_k y_k."""
        yield from self._without_guess(found)
        for name in reversed(list(self.seen)):  # the first may be a large table: the others are let go of before
            seen = self.seen.pop(name)
            if name in self.draws:
                site = self.network.sites[name]
                yield self._of_site(site, seen, joined(self.draws.pop(name)), found)

    def _without_guess(self, found: Derivatives) -> Iterator[dict[str, Tensor]]:
        yield {name: found.along.sum() * direction for name, direction in self.directions.items()}
        for name, (seen, gradient) in self.last.items():
            yield seen.gradients(self.network.sites[name], wide(gradient), self.trained)

    def corrected(self, found: Derivatives, b: Mapping[str, Tensor]) -> Derivatives:
        """The coefficients of the guess of g - b in place of g: δ_k - Σ_j ⟨b_j, y_jk⟩, b by site [samples, *shape]."""
        delta, along = found.delta.clone(), found.along
        for name, some in self.draws.items():
            y, site = joined(some).all().flatten(2), self.network.sites[name]
            inner = torch.einsum("kbd,bd->bk", y, b[name].flatten(1).to(y))
            if not (site.has_samples or self.network.mixes):  # one number for the batch, whose samples' δ are added up
                inner = inner / self.samples
            if self._is_shared(site):
                along = along - inner.squeeze(1)
            else:
                delta[:, found.at.get(name, slice(None))] -= inner
        # Of all blocks together: b is subtracted from the whole δ.
        return replace(found, delta=delta, coefficients=self._coefficients(delta, found.at), along=along, parts=None)

    def _of_site(self, site: Site, seen: Seen, drawn: Drawn, found: Derivatives) -> dict[str, Tensor]:
        with full_precision(self.batch.device):
            return seen.gradients(site, self._estimate(site, drawn, found), self.trained)

    def _estimate(self, site: Site, drawn: Drawn, found: Derivatives) -> Tensor:
        """ĝ [samples, *shape]: the equation of the estimate."""
        if self._is_shared(site):
            return drawn.first() * found.along.sum()
        apart = site.has_samples or self.network.mixes
        if self.locality is not None and found.parts is not None and apart:
            return self.locality.estimate(site.name, drawn.all(), found.parts)
        c = found.coefficients[:, found.at[site.name] if found.at else slice(None)]
        return drawn.combined(c if apart else c.sum(0, keepdim=True))

    @property
    def guesses(self) -> dict[str, Tensor]:
        """y of every site, [samples, *shape]; of the first tangent."""
        return {name: drawn[0].first() for name, drawn in self.draws.items()}

    def estimate_at(self, name: str, found: Derivatives) -> Tensor:
        """ĝ [samples, *shape] of a site, whose draws are given away."""
        return self._estimate(self.network.sites[name], joined(self.draws[name]), found)

    def second_pass(self, found: Derivatives) -> Iterator[dict[str, Tensor]]:
        """The same gradients from a plain forward, in which each guess is drawn again from its key."""
        yield from self._without_guess(found)
        added: list[dict[str, Tensor]] = []

        def visit(site: Site, seen: Seen, s: Tensor) -> None:
            if site.name not in self.guessers:
                return
            with torch.no_grad(), full_precision(s):
                every = range(1) if self._is_shared(site) else range(self.tangents.number)
                drawn = self.draw(site, wide(s), seen.use.weight, every)
                added.append(self._of_site(site, seen, drawn, found))

        # Slopes are derivatives, which only a dual level has.
        with forward_ad.dual_level():
            self.run(PlainPass(self.network, visit, self.samples), self.batch.inputs)
        yield from added

    def guesses_not_finite(self) -> Iterator[str]:
        """The sites whose guess is not finite where their output is, in the order of the forward."""
        found: list[str] = []
        every = range(self.tangents.number)
        ahead = self._draws_ahead(every)

        def show(site: Site, seen: Seen, s: Tensor) -> None:
            if site.name not in self.guessers or not bool(s.isfinite().all()):
                return
            with torch.no_grad(), full_precision(s):
                drawn = ahead.get(site.name) or self.draw(site, wide(s), seen.use.weight, every)
                if not bool(drawn.all().isfinite().all()):
                    found.append(site.name)

        with forward_ad.dual_level():
            self.run(PlainPass(self.network, show, self.samples), self.batch.inputs)
        return iter(found)
