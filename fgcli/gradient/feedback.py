"""Feedback: predictions of the gradient from what earlier steps have told (design.md's b).

e = ∂L/∂(output) is exact and local. What a layer's input x_k does to the output is not: A_k [dim of x_k, dim of e]
follows its mean Jacobian, so that A_k e stands for ∂L/∂x_k through layer k. The prediction at a site pulls these
back through the pieces that start there: activations with their slopes, normalisation, residual sums, pooling,
attention's products; no weight of two or more axes is among them.

direct      b_i is the pull-back of the A_k e of all layers k that are reached next, of e where the output is.
local       the same with W_kᵀ b_k in place of A_k e, b_k the direct prediction: one layer more is exact.

Of the layers that only the output is reached from, Wᵀe is exact in both. As many sweeps of `local` as the network is
deep would be backpropagation; this is one: nothing passes through two weights.

A learns from tangents, normally: noise y_k at the inputs of the layers, carried to the output in one forward pass. With
r = Jy - Σ_j A_jᵀ y_j, what A does not explain yet, A_k ← A_k + η_t (1/batch) Σ_b y_{k,b} r_bᵀ (normalised least mean
squares). Or from the local prediction itself, without tangents (`bootstrap`, as synthetic gradients: Jaderberg et al.
2017). Or not at all: fixed random matrices are direct feedback alignment's (Nøkland 2016); A = 0 leaves exact paths.

Sources: forward gradients for direct feedback alignment (Bacho and Chu 2024: at the outputs, without slopes and
innovation); control variates, any textbook.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.errors import GuessFault, OptionRefused
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.loss import OutputGradient, output_gradient
from fgcli.gradient.nested import leaves, mapped, rebuilt, tangent_of
from fgcli.gradient.operations import input_gradient, linear_part
from fgcli.gradient.passes import Seen
from fgcli.gradient.precision import wide
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.sites import Network
from fgcli.gradient.upstream import CutNetwork, End
from fgcli.gradient.uses import Outputs, Use

Kind = Literal["direct", "local"]
Learning = Literal["tangents", "bootstrap", "fixed", "none"]

WARM_UP = 24
"""Steps at the start that all have tangents, whatever `every` is."""
TIME = 30
"""Steps after which the rate has fallen to half."""
LARGEST = 2**28
"""Entries of all A together, a GiB in float32, above which they are refused."""
RUNAWAY = 1e4
"""Times the estimate of its first steps that ‖A e‖ may grow to, before that is taken for divergence."""


@dataclass(frozen=True)
class FeedbackOptions:
    """How the gradient is predicted.

    Args:
        kind: `direct` or `local`.
        learning: what A learns from.
        rate: η that the learning's rate falls to, in (0, 1].
        every: a pass with tangents every so many steps, after a warm-up.
        correction: α in [0, 1]: the share of the guess's own estimate of g - b; 1 is unbiased wherever the guess is.
    """

    kind: Kind = "local"
    learning: Learning = "tangents"
    rate: float = 0.02
    every: int = 1
    correction: float = 0.0

    def __post_init__(self) -> None:
        for name, value, allowed in (("feedback", self.kind, Kind), ("feedback_learning", self.learning, Learning)):
            if value not in get_args(allowed):
                raise OptionRefused(f"{name} is {value!r}; it must be one of {', '.join(get_args(allowed))}")


class Cut(CutNetwork):
    """A cut network whose pieces' own parameters have a gradient, and that may carry noise to the output.

    The noise is added to the tangent of each learned place, the input of a layer; it goes on past the cuts, the graph
    does not.
    """

    def __init__(self, model: Any, inputs: Any, network: Network, noise: "Noise | None") -> None:
        self.noise = noise
        self.pieces: dict[str, Tensor] = {}
        """Parameters of the pieces, as leaves."""
        super().__init__(model, inputs, network)

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        if not parameter.requires_grad:
            return parameter.detach()
        return self.pieces.setdefault(name, parameter.detach().requires_grad_())

    def visit(self, use: Use) -> Outputs:
        if self.noise is None:
            return super().visit(use)
        tangents = {id(value): tangent_of(value) for value in use.data}
        outputs = super().visit(use.on(_primal))
        alone = self.uses[use.name]
        noise = self.noise.at(self.ends[use.name])
        moved: Sequence[Tensor | None]
        if use.bilinear:
            tangent = tangents[id(use.x)]
            arriving = [one.detach() for one in (tangent, None if noise is None else noise[0]) if one is not None]
            moved = (
                [linear_part(use.func, use.args, sum(arriving[1:], arriving[0]), alone.weight)] if arriving else [None]
            )
        else:
            with torch.no_grad():
                duals = leaves(use.call(_without_graph))
                moved = [tangent_of(one) for one in duals]
                if noise is not None:
                    moved = [y if t is None else t + y for t, y in zip(moved, noise, strict=True)]
        pairs = zip(leaves(outputs), moved, strict=True)
        return rebuilt(outputs, [one if t is None else forward_ad.make_dual(one, t) for one, t in pairs])


def _primal(value: Any) -> Any:
    return forward_ad.unpack_dual(value).primal if isinstance(value, Tensor) else value


def _without_graph(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


class Noise:
    """y ~ N(0, I) at each learned place, remembered by sample."""

    def __init__(self, places: Collection[str], rng: StepRng, samples: int) -> None:
        self.places, self.rng, self.samples = places, rng, samples
        self.drawn: dict[str, Tensor] = {}
        """By place, [samples, d]."""

    def at(self, end: End) -> list[Tensor] | None:
        """In the shapes of the tensors where a piece ends; None where nothing is learned."""
        if end.site.name not in self.places:
            return None
        like = end.site.by_sample([one.detach() for one in end.tensors], self.samples)
        y = self.rng.normal("feedback", end.site.name, tuple(like.shape), like)
        self.drawn[end.site.name] = y.reshape(self.samples, -1)
        return end.site.natural(y, [one.shape for one in end.tensors])


@dataclass
class Prediction:
    """What feedback says of one batch."""

    losses: Tensor
    """[batch], or the mean without axes."""
    at: dict[str, Tensor]
    """b by site, [samples, *shape of s_i]: exact where only the output is reached."""
    seen: dict[str, Seen]
    """The uses, by site."""
    pieces: dict[str, Tensor]
    """Gradients of the parameters that lie in the pieces, by name."""


class Feedback:
    """Predictions of the gradient at every site, and what they learn from.

    Args:
        options: how.
    """

    def __init__(self, options: FeedbackOptions) -> None:
        self.options = options
        self.matrices: dict[str, Tensor] = {}
        """A by place, [d, dim of e]."""
        self.steps = 0
        self._norms: dict[str, float] = {}

    def places(self, network: Network) -> list[str]:
        """Where A is learned: the layers that other sites reach, but for those whose way to the output is exact."""
        reached = {name for site in network.guessed for name in site.reaches}
        sites = network.sites.values()
        return [one.name for one in sites if one.name in reached and one.has_samples and not one.is_output]

    @torch.no_grad()
    def predict(self, model: nn.Module, network: Network, loss: Loss, batch: Batch, rng: StepRng) -> Prediction:
        """b at every site for a batch; A learns from it.

        Raises:
            GuessFault: where A has grown without bound, before anything is updated.
        """
        learning, samples = self.options.learning, network.samples(batch.inputs)
        due = learning == "tangents" and (self.steps < WARM_UP or self.steps % self.options.every == 0)
        places = self.places(network)
        noise = Noise(places, rng, samples) if due else None
        with forward_ad.dual_level() if due else nullcontext():
            cut = Cut(model, batch.inputs, network, noise)
            tangents = [tangent_of(one) for one in leaves(cut.outputs)] if due else []
            moved = [None if one is None else one.detach() for one in tangents]
            with torch.enable_grad():
                outputs = mapped(_primal, cut.outputs) if due else cut.outputs
            of_loss = output_gradient(loss, outputs, batch.targets, network.output_layouts, samples)
        e = torch.cat([one.reshape(samples, -1) for one in of_loss.parts], 1)
        sweeps = Sweeps(cut, leaves(outputs), of_loss)
        exact = sweeps.from_output()
        ahead = {name: self._at_place(name, end, e, rng) for name, end in cut.ends.items() if name in places}
        ends = {name: cut.ends[name] for name in cut.ends if sweeps.is_attached(name)}
        cotangents = {name: ahead[name] for name in ends if name in ahead}
        cotangents |= {name: through(ends[name], exact[name]) for name in ends if name in exact}
        local = self.options.kind == "local" or learning == "bootstrap"
        b = sweeps.pulled(cotangents, last=not local)
        if local:
            known = {name: through(ends[name], b[name]) for name in ends if name in places}
            if learning == "bootstrap":
                self._follow(places, cut, known, e)
            if self.options.kind == "local":
                b = sweeps.pulled(cotangents | known, last=True)
            else:
                b = sweeps.pulled(cotangents, last=True)
        if noise is not None:
            self._learn(noise, moved, network, of_loss, e)
        self.steps += 1
        at = {name: network.sites[name].by_sample(one, samples) for name, one in b.items()}
        seen = {name: Seen(use, [one.shape for one in cut.going[name]]) for name, use in cut.uses.items()}
        return Prediction(of_loss.losses, at, seen, sweeps.of_pieces)

    def _at_place(self, name: str, end: End, e: Tensor, rng: StepRng) -> list[Tensor]:
        """A e, in the shapes of what ends there."""
        like = end.site.by_sample([one.detach() for one in end.tensors], end.samples)
        d = like[0].numel()
        if name not in self.matrices:
            self._refuse_too_large(name, d, e.shape[1])
            fixed = self.options.learning == "fixed"
            start = (
                rng.streams.at(0).normal("fixed-feedback", name, (d, e.shape[1]), e) / math.sqrt(d) if fixed else None
            )
            self.matrices[name] = e.new_zeros(d, e.shape[1]) if start is None else start
        predicted = e @ self.matrices[name].to(e).T
        self._notice_growth(name, predicted, e)
        return end.site.natural(predicted.view(like.shape), [one.shape for one in end.tensors])

    def _refuse_too_large(self, name: str, d: int, c: int) -> None:
        entries = d * c + sum(one.numel() for one in self.matrices.values())
        if entries > LARGEST:
            raise OptionRefused(
                f"feedback at site '{name}' takes a matrix of {d:,} × {c:,} (input of the layer × outputs of the "
                f"network), {entries:,} numbers with those before it; at most {LARGEST:,}: use feedback_learning none, "
                "whose matrix is 0, or feedback none"
            )

    def _notice_growth(self, name: str, predicted: Tensor, e: Tensor) -> None:
        size = float(predicted.norm() / e.norm().clamp_min(torch.finfo(e.dtype).tiny))
        if self.steps < WARM_UP:
            self._norms[name] = max(self._norms.get(name, 0.0), size)
        if not math.isfinite(size) or (self._norms.get(name) and size > RUNAWAY * self._norms[name]):
            raise GuessFault(
                name,
                f"feedback has grown to {size:.3g} times the output's gradient ({self._norms.get(name)} "
                "at the start): lower feedback_rate or the learning rate",
            )

    @property
    def _rate(self) -> float:
        return max(1 / (1 + self.steps / TIME), self.options.rate)

    def _learn(
        self, noise: Noise, moved: Sequence[Tensor | None], network: Network, of_loss: OutputGradient, e: Tensor
    ) -> None:
        """Normalised least mean squares in innovation form."""
        samples = noise.samples
        carried = [
            (torch.zeros_like(part) if one is None else layout.by_sample(wide(one), samples)).reshape(samples, -1)
            for layout, one, part in zip(network.output_layouts, moved, of_loss.parts, strict=True)
        ]
        rest = torch.cat(carried, 1)
        for name, y in noise.drawn.items():
            rest = rest - wide(y) @ self.matrices[name].to(rest)
        dimensions = sum(y.shape[1] for y in noise.drawn.values())
        step = self._rate / (1 + dimensions / samples) / samples
        for name, y in noise.drawn.items():
            self.matrices[name] = self.matrices[name].to(rest).addmm_(wide(y).T, rest, alpha=step)

    def _follow(self, places: Sequence[str], cut: Cut, known: Mapping[str, list[Tensor]], e: Tensor) -> None:
        """A share of the way to the least-squares regression of the local prediction on e, of this batch."""
        gram = e.T @ e
        ridge = gram.diagonal().mean().clamp_min(torch.finfo(e.dtype).tiny) * 1e-3
        inverse = torch.linalg.inv(gram + ridge * torch.eye(len(gram), dtype=e.dtype, device=e.device))
        for name, values in known.items():
            target = cut.ends[name].site.by_sample(values, len(e)).reshape(len(e), -1)
            innovation = target - e @ self.matrices[name].to(e).T
            self.matrices[name] = self.matrices[name].to(e) + self._rate * (innovation.T @ e @ inverse)

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs."""
        norms = {f"feedback-norm:{name}": torch.tensor(one) for name, one in self._norms.items()}
        matrices = {f"feedback:{name}": one for name, one in self.matrices.items()}
        return {"feedback-steps": torch.tensor(self.steps), **matrices, **norms}

    def load_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Take up one's own part of a state; the rest is given back."""
        self.matrices, self._norms, self.steps, rest = {}, {}, 0, {}
        for key, value in state.items():
            kind, _, name = key.partition(":")
            if kind == "feedback-steps":
                self.steps = int(value)
            elif kind == "feedback":
                self.matrices[name] = value
            elif kind == "feedback-norm":
                self._norms[name] = float(value)
            else:
                rest[key] = value
        return rest


class Sweeps:
    """Pull-backs through the pieces of a cut network, of all sites at once: no graph crosses a site."""

    def __init__(self, cut: Cut, outputs: Sequence[Tensor], of_loss: OutputGradient) -> None:
        self.cut = cut
        self._sites = [site for site in cut.network.guessed if site.name in cut.going]
        frozen = [site for name, site in cut.network.sites.items() if name in cut.going and not site.is_guessed]
        self._sites += frozen
        pairs = zip(outputs, cut.network.output_layouts, of_loss.parts, strict=True)
        self._outputs = [(one, layout.natural(e)) for one, layout, e in pairs if one.requires_grad]
        self.of_pieces: dict[str, Tensor] = {}
        """Gradients of the pieces' parameters, known from the last sweep."""

    def is_attached(self, name: str) -> bool:
        """Whether the pieces that end there start at a site."""
        return any(one.requires_grad for one in self.cut.ends[name].tensors)

    def from_output(self) -> dict[str, list[Tensor]]:
        """∂L/∂s of the sites that only the output is reached from, exact."""
        sites = [site for site in self._sites if site.is_output]
        flat = [one for site in sites for one in self.cut.going[site.name]]
        if not flat or not self._outputs:
            return {}
        found = iter(self._grad([], [], flat, last=False))
        return {site.name: [next(found) for _ in self.cut.going[site.name]] for site in sites}

    def pulled(self, cotangents: Mapping[str, Sequence[Tensor]], *, last: bool) -> dict[str, list[Tensor]]:
        """Of all sites, of what is given at the ends of the pieces and e at the output."""
        pairs = [
            (one, u)
            for name, some in cotangents.items()
            for one, u in zip(self.cut.ends[name].tensors, some, strict=True)
            if one.requires_grad
        ]
        flat = [one for site in self._sites for one in self.cut.going[site.name]]
        pieces = list(self.cut.pieces.values()) if last else []
        found = iter(self._grad([one for one, _ in pairs], [u for _, u in pairs], [*flat, *pieces], last=last))
        b = {site.name: [next(found) for _ in self.cut.going[site.name]] for site in self._sites}
        if last:
            self.of_pieces = dict(zip(self.cut.pieces, found, strict=True))
        return b

    def _grad(
        self, ends: Sequence[Tensor], cotangents: Sequence[Tensor], inputs: Sequence[Tensor], *, last: bool
    ) -> tuple[Tensor, ...]:
        return torch.autograd.grad(
            [*ends, *(one for one, _ in self._outputs)],
            inputs,
            [one.to(end.dtype) for one, end in zip(cotangents, ends, strict=True)]
            + [e.to(one.dtype).view_as(one) for one, e in self._outputs],
            retain_graph=not last,
            allow_unused=True,
            materialize_grads=True,
        )


def through(end: End, gradient: Sequence[Tensor]) -> list[Tensor]:
    """The pull-back through one use, of a gradient with respect to what it gives, to where its piece ends."""
    if end.use is None:
        return list(gradient)
    return [input_gradient(end.use.func, end.use.args, end.use.x, gradient[0])]
