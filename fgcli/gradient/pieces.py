"""What feedback passes through: the pieces of a cut network, between a site's output and the inputs of the next layers.

Pull-backs go through the pieces that start at a site, and through one use where a rule asks for it; no graph crosses a
site. Noise may be carried past the cuts, as tangents.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.gradient.loss import OutputGradient
from fgcli.gradient.nested import detached, leaves, no_view, primal_of, rebuilt, tangent_of, unpacked
from fgcli.gradient.operations import input_gradient, linear_part
from fgcli.gradient.passes import Seen, refuse_unseen, site_of
from fgcli.gradient.randomness import Signs, StepRng
from fgcli.gradient.sites import ELEMENTWISE, Activation, Network, Site
from fgcli.gradient.upstream import CutNetwork, End
from fgcli.gradient.uses import Outputs, Pass, Use


class Noise(Mapping[str, Tensor]):
    """y of random signs at each place, by its name: [rows, d], once `tokens` is known.

    Args:
        places: where there is noise.
        rng: the streams of the step.
        keep: whether what was drawn is kept, or drawn again from its key.
    """

    def __init__(self, places: Collection[str], rng: StepRng, *, keep: bool = True) -> None:
        self.places, self.rng, self.keep = places, rng, keep
        self.tokens = 1
        self._drawn: dict[str, Signs] = {}
        self._like: dict[str, Tensor] = {}

    def at(self, site: Site, tensors: Sequence[Tensor], samples: int) -> list[Tensor] | None:
        """In the shapes of the tensors where a piece ends; None where there is none."""
        if site.name not in self.places:
            return None
        like = site.by_sample([one.detach() for one in tensors], samples)
        self._like[site.name] = like.new_empty(1).expand(like.shape)
        return site.natural(self._draw(site.name), [one.shape for one in tensors])

    def _draw(self, name: str) -> Tensor:
        like = self._like[name]
        drawn = self._drawn.get(name) or self.rng.signs("feedback", name, tuple(like.shape), like.device)
        if self.keep:
            self._drawn[name] = drawn
        return drawn.values(like.dtype)

    def __getitem__(self, name: str) -> Tensor:
        return by_row(self._draw(name), self.tokens)

    def __iter__(self) -> Iterator[str]:
        return iter(self._like)

    def __len__(self) -> int:
        return len(self._like)


SYMMETRIC = ELEMENTWISE | {F.softmax, torch.softmax, Tensor.softmax}
"""Operations of one tensor whose Jacobian is symmetric: a vjp by what the graph holds already is their tangent."""
SAVING = SYMMETRIC | {torch.matmul, Tensor.matmul, torch.bmm, Tensor.bmm, Tensor.pow, torch.pow}
"""Operations whose graph holds what they are given, or give, and would hold the tangents of it."""


def _detached_dual(value: Any, tangent: Tensor | None) -> Any:
    """A tensor with a tangent, both without a graph; any other value itself."""
    if not isinstance(value, Tensor):
        return value
    return value.detach() if tangent is None else forward_ad.make_dual(value.detach(), tangent.detach())


def by_row(values: Tensor, tokens: int) -> Tensor:
    """[samples, ...] as [rows, d]: a row a token where the values have one, else a row a sample."""
    if tokens > 1 and values.dim() > 2 and values.shape[1] == tokens:
        return values.reshape(len(values) * tokens, -1)
    return values.reshape(len(values), -1)


class NoisyPass(Pass):
    """A forward without a graph that carries noise from the inputs of layers to the output.

    Args:
        network: what the look at the model found.
        noise: at the inputs; None: a plain forward.
        samples: the number of samples that the batch is taken as.
    """

    def __init__(self, network: Network, noise: Noise | None, samples: int) -> None:
        self.network, self.noise, self.samples = network, noise, samples
        self.tail = network.tail(samples)

    def visit(self, use: Use) -> Outputs:
        site = site_of(self.network, use)
        outputs, _ = use.on(primal_of).pushed()
        return noisy(site, use, outputs, self.noise, self.samples)


def noisy(site: Site, use: Use, outputs: Outputs, noise: Noise | None, samples: int) -> Outputs:
    """A use's outputs with the tangents that those of its data make, and the noise that is added there."""
    if noise is None:
        return outputs
    with torch.no_grad():
        if use.bilinear:
            added, tangent = noise.at(site, [use.x], samples), tangent_of(use.x)
            arriving = [one.detach() for one in (tangent, *(added or ())) if one is not None]
            total = sum(arriving[1:], arriving[0]) if arriving else None
            moved = [None if total is None else linear_part(use.func, use.args, total, use.weight)]
        else:
            moved = [tangent_of(one) for one in leaves(use.call(detached))]
            added = noise.at(site, leaves(outputs), samples)
            if added is not None:
                moved = [y if t is None else t + y for t, y in zip(moved, added, strict=True)]
    pairs = zip(leaves(outputs), moved, strict=True)
    return rebuilt(outputs, [one if t is None else forward_ad.make_dual(one, no_view(t)) for one, t in pairs])


class Pieces(CutNetwork):
    """A cut network whose pieces' own parameters have a gradient, and that may carry noise to the output.

    The noise goes on past the cuts, the graph does not.
    """

    def __init__(self, model: nn.Module, inputs: Any, network: Network, noise: Noise | None = None) -> None:
        self.noise = noise
        self.parameters: dict[str, Tensor] = {}
        """Parameters of the pieces, as leaves."""
        super().__init__(model, inputs, network, keep=False)

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        refuse_unseen(self.network, name, parameter)
        if not parameter.requires_grad:
            return parameter.detach()
        return self.parameters.setdefault(name, parameter.detach().requires_grad_())

    def visit(self, use: Use) -> Outputs:
        if self.noise is None:
            return super().visit(use)
        outputs = super().visit(use.on(primal_of))
        return noisy(self.ends[use.name].site, use, outputs, self.noise, self.samples)

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        splits = self.noise is not None and func in SAVING and args and not leaves(kwargs)
        if not splits or Activation(func, args, kwargs).is_in_place:
            return super().operate(func, args, kwargs)
        values, moved = zip(*map(unpacked, args), strict=True)
        if all(one is None for one in moved):
            return super().operate(func, args, kwargs)
        y = super().operate(func, values, kwargs)
        with torch.no_grad():
            first = moved[0]
            if func in SYMMETRIC and first is not None and y.requires_grad and y.dtype == first.dtype:
                (tangent,) = torch.autograd.grad(y, values[0], first, retain_graph=True)
            else:
                tangent = tangent_of(super().operate(func, tuple(map(_detached_dual, values, moved)), kwargs))
        return y if tangent is None else forward_ad.make_dual(y, no_view(tangent))

    def seen(self, name: str) -> Seen:
        """The use at a site."""
        return Seen(self.uses[name], [one.shape for one in self.going[name]])


def at_output(outputs: Sequence[Tensor], of_loss: OutputGradient) -> list[tuple[Tensor, Tensor]]:
    """The model's outputs, and e with respect to each in its natural shape."""
    pairs = zip(outputs, of_loss.layouts, of_loss.parts, strict=True)
    return [(one, layout.natural(e).view_as(one)) for one, layout, e in pairs]


def through(end: End, gradient: Sequence[Tensor], weight: Tensor | None = None) -> list[Tensor]:
    """The pull-back through one use, of a gradient with respect to what it gives, to where its piece ends.

    `weight` in place of the use's own, where its Jacobian is known.
    """
    if end.use is None:
        return list(gradient)
    x, own, *rest = end.use.args
    return [input_gradient(end.use.func, (x, own if weight is None else weight, *rest), end.use.x, gradient[0])]
