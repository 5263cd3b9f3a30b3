"""The forward with dual numbers: real forward-mode AD through the user's own forward, without a recorded graph.

One tangent: each use's tangent goes on with its guess added. Several: a dual number's tangent has its primal's shape,
so the model runs on rows [tangents · batch, ...] that repeat the batch, the whole batch for each tangent in turn. A
linear layer or convolution sees each sample once all the same, and its tangents are one product of all rows; between
a site and the next linear layer, elementwise activations are passed by their slope, so that there too each sample is
computed once. What else a model holds runs on all rows. It takes a fourth of the time of torch.func.vmap over jvp.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from fgcli.gradient.by_hand import dropout
from fgcli.gradient.errors import UnknownSite
from fgcli.gradient.nested import copied, detached, leaves, mapped, rebuilt
from fgcli.gradient.operations import TABLES, linear_part
from fgcli.gradient.precision import LOW, full_precision, wide
from fgcli.gradient.randomness import layers_again
from fgcli.gradient.sites import Layout, Link, Network, Site
from fgcli.gradient.uses import Outputs, Pass, Use

CHUNK = 2**18
"""Entries of tangents that are taken past a linked site at a time on the CPU: a MiB in float32, which a cache holds."""


@dataclass(frozen=True)
class Seen:
    """A use as a pass came by: what its parameters' gradients are made of."""

    use: Use
    """With data that has no tangents."""
    shapes: Sequence[torch.Size]
    """Of what it gives."""
    rows: int = 1
    """How often the samples are repeated in it."""

    def kept(self, site: Site) -> "Seen":
        """What may be kept until the end of the forward, which may change data in place."""
        return Seen(self.use.on(copied), self.shapes, self.rows) if site.copied else self

    def gradients(self, site: Site, output_gradient: Tensor, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The use's own vjp with one gradient [samples, *shape]: gradients of its trained parameters, by name."""
        if self.rows > 1:
            rest = output_gradient.new_zeros((self.rows - 1) * len(output_gradient), *output_gradient.shape[1:])
            output_gradient = torch.cat([output_gradient, rest])
        use = self.use.on(wide) if any(one.dtype in LOW for one in self.use.data) else self.use
        with full_precision(output_gradient):
            return use.gradients(site.natural(output_gradient, self.shapes), trained)


def _leaves_of(values: Sequence[Tensor]) -> list[Tensor]:
    return [one.detach().requires_grad_() for one in values]


Perturb = Callable[[Site, Seen, Tensor], Tensor | None]
"""(site, its use, s [samples, *shape]) -> what is added to the tangent of s, in its shape, a tensor that is not written
into; None where nothing is. With several tangents [tangents, samples, *shape]."""


class OneTangent(Pass):
    """A pass with one tangent for each sample. Run it inside a dual level and under no_grad.

    Args:
        network: what the look at the model found.
        perturb: what is added to the tangent at a use.
        directions: tangents of parameters that meet data elementwise, by name.
        samples: the number of samples that the batch is taken as.
        exact: sites whose way to the output is recorded, as no other lies on it.
    """

    def __init__(
        self,
        network: Network,
        perturb: Perturb,
        directions: Mapping[str, Tensor],
        samples: int,
        exact: Collection[str] = (),
    ) -> None:
        self.network, self.perturb, self.directions, self.samples = network, perturb, directions, samples
        self.tail = network.tail(samples)
        self.exact = exact
        self.last: dict[str, tuple[Seen, list[Tensor]]] = {}
        """Sites of `exact`, and the leaves that a graph to the output starts from."""

    def visit(self, use: Use) -> Outputs:
        site = site_of(self.network, use)
        note_generators(self.network, use)
        outputs, tangents = use.pushed()
        given = leaves(outputs)
        site = self.arrive(site, given, tangents)
        seen = Seen(use.on(detached), [s.shape for s in given])
        if site.name in self.exact:
            given = _leaves_of(given)
            self.last[site.name] = seen.kept(site), given
            return rebuilt(outputs, [_dual(s.clone(), t, None) for s, t in zip(given, tangents, strict=True)])
        y = self.perturb(site, seen, site.by_sample(given, self.samples))
        added = [None] * len(given) if y is None else site.natural(y, seen.shapes)
        made = [_dual(*one) for one in zip(given, tangents, added, strict=True)]
        return made[0] if isinstance(outputs, Tensor) else rebuilt(outputs, made)

    def arrive(self, site: Site, given: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Site:
        """The site, once what its use gives has been seen, and the tangents that those of the data make."""
        return site

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        refuse_unseen(self.network, name, parameter)
        direction = self.directions.get(name)
        return parameter.detach() if direction is None else forward_ad.make_dual(parameter.detach(), direction)


class SeveralTangents(OneTangent):
    """A pass with several tangents for each sample, over inputs that `repeated` made.

    `perturb` sees each sample once. Sites without samples, and `directions`, have one tangent more, beside the others',
    which tells their part from the sites'.

    Args:
        network: what the look at the model found; its samples do not meet.
        perturb: what is added to the tangents at a use.
        directions: tangents of parameters that meet data elementwise, by name.
        samples: the batch's size.
        tangents: their number.
        rows: how often the inputs are repeated: as often, and once more where anything is shared.
        exact: as of OneTangent.
    """

    def __init__(
        self,
        network: Network,
        perturb: Perturb,
        directions: Mapping[str, Tensor],
        samples: int,
        tangents: int,
        rows: int,
        exact: Collection[str] = (),
    ) -> None:
        super().__init__(network, perturb, directions, samples, exact)
        self.tangents, self.rows = tangents, rows
        self.tail = network.tail(samples, rows)
        self._carried: dict[str, Tensor | None] = {}
        """By the next site: the tangents that come there past a way's slope, None where none has started yet."""
        self._ways: dict[int, tuple[Link, int, Tensor]] = {}
        """By the id of a tensor on a way that is passed by slope: the way, the activations so far, the tensor."""

    def visit(self, use: Use) -> Outputs:
        site = site_of(self.network, use)
        if not site.has_samples:
            return OneTangent(self.network, self.perturb, {}, 1).visit(use)
        return self._bilinear(site, use) if use.bilinear else self._general(site, use)

    def _bilinear(self, site: Site, use: Use) -> Tensor:
        once, layout = site.name in self._carried, site.layouts[0]
        carried = self._carried.pop(site.name, None)
        if once:  # past the activations by their slope: the input is that of each sample once
            link, passed, _ = self._ways.pop(id(use.x), (None, 0, None))
            if link is None or link.next_site != site.name or passed != len(link.activations):
                raise UnknownSite(site.name)
            x, arriving = use.x, None if carried is None else carried.flatten(0, 1)
        else:
            x, arriving = forward_ad.unpack_dual(use.x)
            first = layout.by_sample(x, self.rows * self.samples)[: self.samples]
            x = layout.natural(first).clone()  # it is kept, which a view of all rows must not be
        weight, bias = use.args[1].detach(), use.args[2] if len(use.args) > 2 else None
        s = linear_part(use.func, use.args, x, weight, bias.detach() if isinstance(bias, Tensor) else bias)
        seen = Seen(use.on(lambda value: x if value is use.x else value), [s.shape])
        if site.name in self.exact:
            (s,) = leaf = _leaves_of([s])
            self.last[site.name] = seen.kept(site), leaf
            added = None
        else:
            added = self._added(site, seen, layout.by_sample(s, self.samples))
            added = None if added is None else added.to(s.dtype)
        if site.link is not None and (added is not None or arriving is None):
            slope = None if added is None else site.link.slope(s)
            if added is None or slope is None:
                passed = None
            elif arriving is None:
                passed = added * slope
            else:
                out = carried if carried is not None and carried.shape == added.shape else torch.empty_like(added)
                passed = _linked(weight, arriving, added, slope, out)
            self._carried[site.link.next_site] = passed
            going = s.clone()  # what the model does in place must not reach what `perturb` keeps
            self._ways[id(going)] = site.link, 0, going
            return going
        through = None if arriving is None else linear_part(use.func, use.args, arriving, weight)
        by_sample = layout.by_sample(s, self.samples)
        rows = layout.natural(by_sample.repeat(self.rows, *[1] * (by_sample.dim() - 1)))
        rows = rows.contiguous()  # as the layer itself gives it: a model may take a view
        return _dual(rows, through, None if added is None else layout.natural(added.flatten(0, 1)))

    def _general(self, site: Site, use: Use) -> Outputs:
        outputs, tangents = use.pushed()
        given = leaves(outputs)
        seen = Seen(use.on(detached), [s.shape for s in given], self.rows)
        if site.name in self.exact:
            given = _leaves_of(given)
            self.last[site.name] = seen.kept(site), given
            return rebuilt(outputs, [_dual(s.clone(), t, None) for s, t in zip(given, tangents, strict=True)])
        if use.func in TABLES:  # its backward may count how often a row is looked up
            seen = self._of_each_sample(site.layouts[0], seen)
        added = self._added(site, seen, site.by_sample(given, self.rows * self.samples)[: self.samples])
        ys = [None] * len(given) if added is None else site.natural(added.flatten(0, 1), seen.shapes)
        return rebuilt(outputs, [_dual(*one) for one in zip(given, tangents, ys, strict=True)])

    def _of_each_sample(self, layout: Layout, seen: Seen) -> Seen:
        """The use with each sample once."""

        def once(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            # An EmbeddingBag's indices are more than its bags.
            whole = replace(layout, folded=layout.folded or value.shape[layout.axis or 0] != self.rows * self.samples)
            return whole.natural(whole.by_sample(value, self.rows * self.samples)[: self.samples])

        shape = list(seen.shapes[0])
        shape[layout.axis or 0] //= self.rows
        return Seen(seen.use.on(once), [torch.Size(shape)])

    def _added(self, site: Site, seen: Seen, s: Tensor) -> Tensor | None:
        added = self.perturb(site, seen, s)
        if added is None or self.rows == self.tangents:
            return added
        return torch.cat([added, torch.zeros_like(added[:1])])

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        outputs = self._drawn(func, args, kwargs)
        if self._ways and leaves(outputs):
            self._follow(func, args, kwargs, outputs)
        return outputs

    def _follow(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Outputs) -> None:
        """Note how far a way has come. UnknownSite where values have led the forward another way than the look."""
        for value in leaves((args, tuple(kwargs.values()))):
            if id(value) not in self._ways:
                continue
            link, passed, _ = self._ways.pop(id(value))
            follows = passed < len(link.activations) and link.activations[passed].func is func
            if value is not args[0] or not (follows or func is dropout):
                raise UnknownSite(link.next_site)
            self._ways[id(outputs)] = link, passed + follows, outputs

    def end(self) -> None:
        """UnknownSite where a way has not come to its next site."""
        if self._carried:
            raise UnknownSite(next(iter(self._carried)))

    def _drawn(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        """A sample's rows see the same random numbers: each repetition of the batch draws from the same state."""
        rows = self.rows * self.samples
        if func not in self.network.drawing or not any(len(v) % rows == 0 for v in args if _has_axes(v)):
            return func(*args, **kwargs)
        again = layers_again(next(value.device for value in args if _has_axes(value)))
        parts = []
        for number in range(self.rows):
            if number:
                again()

            def part(value: Any, number: int = number) -> Any:
                own = _has_axes(value) and len(value) % rows == 0
                return value.chunk(self.rows)[number] if own else value

            parts.append(func(*mapped(part, args), **mapped(part, kwargs)))
        return torch.cat(parts)


class PlainPass(Pass):
    """A pass without tangents, which shows each site.

    Args:
        network: what the look at the model found.
        show: is called with each site, its use, and s [samples, *shape].
        samples: the number of samples that the batch is taken as.
    """

    def __init__(self, network: Network, show: Callable[[Site, Seen, Tensor], None], samples: int) -> None:
        self.network, self.show, self.samples = network, show, samples

    def visit(self, use: Use) -> Outputs:
        site = site_of(self.network, use)
        note_generators(self.network, use)
        outputs, _ = use.pushed()
        given = leaves(outputs)
        self.show(site, Seen(use, [s.shape for s in given]), site.by_sample(given, self.samples))
        return outputs.clone() if isinstance(outputs, Tensor) else outputs  # what is shown may be kept


def repeated(inputs: Any, rows: int, samples: int) -> Any:
    """A model's inputs with each tensor [samples, ...] repeated to [rows · samples, ...], a tensor of its own."""

    def more(value: Any) -> Any:
        own = _has_axes(value) and len(value) == samples
        return value.repeat(rows, *[1] * (value.dim() - 1)) if own else value

    return mapped(more, inputs)


def site_of(network: Network, use: Use) -> Site:
    """The site of a use. UnknownSite for one that the look did not come by, as a branch on values may have."""
    site = network.sites.get(use.name)
    if site is None:
        raise UnknownSite(use.name)
    return site


def note_generators(network: Network, use: Use) -> None:
    """Let a use that draws (an LSTM's dropout) draw the same for its own vjp."""
    if use.func in network.drawing:
        use.again = layers_again(use.data[0].device)


def _has_axes(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _dual(s: Tensor, arriving: Tensor | None, added: Tensor | None) -> Tensor:
    """s with the sum as its tangent, a tensor of its own: what the model does in place must reach nobody's."""
    if added is None:
        return s if arriving is None else forward_ad.make_dual(s, arriving)
    added = added.to(s.dtype)
    return forward_ad.make_dual(s, added.clone() if arriving is None else arriving + added)


def refuse_unseen(network: Network, name: str, parameter: Tensor) -> None:
    """UnknownSite for a trained parameter that the look did not see met elementwise: it would have no gradient."""
    if parameter.requires_grad and name not in network.pieces and name not in network.beside:
        raise UnknownSite(name)


def _linked(weight: Tensor, tangent: Tensor, added: Tensor, slope: Tensor, out: Tensor) -> Tensor:
    """(tangent Wᵀ + added) ∘ slope of a linear layer: [rows, batch, d], a few rows at a time.

    It is in `out`, which may be the memory of `tangent`.
    """
    # Under autocast a LayerNorm's tangent is in float32, a layer's in the lower precision.
    dtype = slope.dtype
    transposed, tangent, added = weight.T.to(dtype), tangent.to(dtype), added.to(dtype)
    tangent = tangent.view(len(added), -1, tangent.shape[-1])
    size = max(1, CHUNK // added[0].numel()) if out.device.type == "cpu" else len(out)
    for before, y, after in zip(tangent.split(size), added.split(size), out.split(size), strict=True):
        torch.mul(torch.addmm(y.flatten(0, 1), before.flatten(0, 1), transposed).view(y.shape), slope, out=after)
    return out
