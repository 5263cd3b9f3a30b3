"""Contract 1: the upstream Jacobian W̃ of a site, a linear operator per sample.

W̃_b maps the tangent space of s_i to that of all that is reached next: the outputs of the next sites (each inclusive:
its own layer is the last operation), and the model's output where a path gets there past all sites. What comes from
other sites is held fixed. The chain rule is then g_i = W̃_iᵀ (g_j, ..., ∂L/∂output), so that g_i lies in Im(W̃_iᵀ)
exactly, whatever branches and skips the network has. In a chain it is the paper's. On a residual stream it reaches past
every block: the first projection of each later block is a next site, and W̃_i has a block of rows for each.

Vectors are [batch, d]; a trailing axis of columns, [batch, d, columns], is allowed everywhere.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fgcli.gradient.nested import detached, leaves, pulled, rebuilt
from fgcli.gradient.operations import derivable, input_gradient, linear_part
from fgcli.gradient.passes import note_generators, site_of
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.uses import Outputs, Pass, Use, run


class UpstreamJacobian(Protocol):
    """W̃, one matrix per sample, known by what it does to vectors."""

    @property
    def input_dim(self) -> int:
        """d_in, the dimension of s_i."""
        ...

    @property
    def output_dim(self) -> int:
        """d_out, the dimension of what is reached next."""
        ...

    def apply(self, v: Tensor) -> Tensor:
        """The product W̃_b v_b for every sample.

        Args:
            v: [batch, d_in] or [batch, d_in, columns].

        Returns:
            [batch, d_out] or [batch, d_out, columns].
        """
        ...

    def apply_transpose(self, u: Tensor) -> Tensor:
        """The product W̃_bᵀ u_b for every sample.

        Args:
            u: [batch, d_out] or [batch, d_out, columns].

        Returns:
            [batch, d_in] or [batch, d_in, columns].
        """
        ...

    def nearest(self, rows: int) -> "UpstreamJacobian":
        """W̃ of what is reached first, in the order of the forward: all of it in a chain.

        Args:
            rows: that it is to have of a sample at least, if all have as many.

        Returns:
            The first of W̃'s rows, to the end of a site's.
        """
        ...

    def dense(self) -> Tensor:
        """W̃ as matrices, for oracles and the paper's literal methods.

        Returns:
            [batch, d_out, d_in].
        """
        ...


@dataclass(frozen=True)
class LinearUpstream:
    """W̃_b = W diag(slope_b): a linear layer behind an elementwise activation (Eq. 4 of the paper).

    weight [d_out, d_in] is shared by all samples; slope [batch, d_in] is the activation's derivative at s_i, which
    for ReLU is the 0/1 mask M_b.
    """

    weight: Tensor
    slope: Tensor

    @property
    def input_dim(self) -> int:
        return self.weight.shape[1]

    @property
    def output_dim(self) -> int:
        return self.weight.shape[0]

    def apply(self, v: Tensor) -> Tensor:
        if v.dim() == 2:
            return (v * self.slope) @ self.weight.T
        return self.weight @ (v * self.slope.unsqueeze(-1))

    def apply_transpose(self, u: Tensor) -> Tensor:
        if u.dim() == 2:
            return (u @ self.weight).mul_(self.slope)
        columns = u.movedim(-1, 0) @ self.weight  # one product of all columns and samples
        return columns.mul_(self.slope).movedim(0, -1)

    def nearest(self, rows: int) -> "LinearUpstream":
        return self

    def dense(self) -> Tensor:
        return self.weight * self.slope.unsqueeze(1)


class _Begun(torch.autograd.Function):
    """Values whose gradient is that of a leaf of their shape."""

    @staticmethod
    def forward(ctx: Any, leaf: Tensor, values: Tensor) -> Tensor:
        # The same memory, but no view, which in-place operations refuse.
        return values.new_empty(0).set_(values)  # pyright: ignore[reportArgumentType]

    @staticmethod
    def backward(ctx: Any, *of_output: Tensor) -> tuple[Tensor, None]:
        return of_output[0], None


class CutNetwork(Pass):
    """One forward of a network that is cut at every use, with the graphs of what lies between.

    A site's output goes on as a leaf, so that no graph crosses a site. It is a pass (fgcli.gradient.uses).

    Args:
        model: the model.
        inputs: what it is called with.
        network: what the look at it found.
        keep: whether what the sites give is kept; else there is NaN in its place.
    """

    def __init__(self, model: nn.Module, inputs: Any, network: Network, *, keep: bool = True) -> None:
        self.network, self.keep, self.samples = network, keep, network.samples(inputs)
        self.tail = network.tail(self.samples, cut=True)
        self.going: dict[str, list[Tensor]] = {}
        """The leaves that go on in place of what a site's use gives."""
        self.ends: dict[str, End] = {}
        """By site: where the pieces before it end."""
        self.uses: dict[str, Use] = {}
        """With data that has no graph."""
        self.outputs = run(model, inputs, self)
        """What the model gives, attached to the last leaves."""

    def visit(self, use: Use) -> Outputs:
        site = site_of(self.network, use)
        note_generators(self.network, use)
        alone = use.on(detached)
        if use.bilinear:  # its own Jacobian is known, so that no graph of it is needed
            outputs, _ = alone.pushed()
            self.ends[site.name] = End(site, [use.x], _shapes_of(leaves(outputs)), alone, self.samples)
        else:
            outputs = use.call(lambda value: value)
            given = leaves(outputs)
            attached = given if any(one.requires_grad for one in given) else _shapes_of(given)
            self.ends[site.name] = End(site, attached, _shapes_of(given), None, self.samples)
        self.uses[site.name] = alone
        begun = [self.begin(site, one.detach(), alone=use.bilinear) for one in leaves(outputs)]
        self.going[site.name] = [leaf for leaf, _ in begun]
        return rebuilt(outputs, [going for _, going in begun])

    def begin(self, site: Site, s: Tensor, *, alone: bool) -> tuple[Tensor, Tensor]:
        """Where the pieces behind a site begin: a leaf, and what goes on, s attached to it.

        Args:
            site: the site.
            s: what its use gives.
            alone: whether nothing else has that tensor.
        """
        if not self.keep:
            leaf = s.new_full((1,), torch.nan).expand(s.shape).requires_grad_()
            return leaf, _Begun.apply(leaf, s if alone else s.clone())  # pyright: ignore[reportReturnType]
        leaf = s.requires_grad_()
        in_place = site.link is None or site.link.is_in_place  # a leaf is not changed in place
        return leaf, leaf.clone() if in_place else leaf

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        return derivable(func)(*args, **kwargs)

    def s(self, site: Site) -> Tensor:
        """The site's output [samples, *shape]."""
        return site.by_sample([one.detach() for one in self.going[site.name]], self.samples)

    def in_turn(self, sites: Sequence[Site]) -> Iterator[Site]:
        """Those of these sites that the forward came by. What no later one needs is let go of after each."""
        last = {name: number for number, site in enumerate(sites) for name in site.reaches}
        output = max((number for number, site in enumerate(sites) if site.reaches_output), default=-1)
        for name in self.uses.keys() - {site.name for site in sites}:
            del self.uses[name], self.going[name]
        for number, site in enumerate(sites):
            if site.name in self.going:
                yield site
                del self.uses[site.name], self.going[site.name]
            for name in [name for name in site.reaches if last[name] == number]:
                self.ends.pop(name, None)
            if output == number:
                self.outputs = ()

    def upstream(self, site: Site) -> "SegmentUpstream":
        """W̃ of a site."""
        ends = [self.ends[name] for name in site.reaches if name in self.ends]
        if site.reaches_output:
            pairs = zip(self.network.output_layouts, leaves(self.outputs), strict=True)
            at_output = [(Site("", (), False, (layout,)), one) for layout, one in pairs]
            ends += [End(site, [one], [one.detach()], None, self.samples) for site, one in at_output]
        reached = [end for end in ends if any(one.requires_grad for one in end.tensors)]
        return SegmentUpstream(site, self.going[site.name], reached, self.samples)


@dataclass(frozen=True)
class End:
    """Where a piece ends: at a use, or at the model's output."""

    site: Site
    tensors: Sequence[Tensor]
    """With the piece's graph: the use's input where its own Jacobian is known, else what it gives."""
    like: Sequence[Tensor]
    """What the use gives, for its shapes."""
    use: Use | None
    samples: int

    def flat(self, values: Sequence[Tensor]) -> Tensor:
        """Vectors [samples, d_out] of values in the natural shapes of what the use gives, or of their tangents."""
        if self.use is not None:
            values = [linear_part(self.use.func, self.use.args, values[0], self.use.weight)]
        return self.site.by_sample(values, self.samples).reshape(self.samples, -1)

    def pulled(self, u: Tensor) -> list[Tensor]:
        """Cotangents of `tensors` of vectors u [samples, d_out]."""
        shapes = [one.shape for one in self.like]
        by_sample = self.site.by_sample(self.like, self.samples)
        natural = self.site.natural(u.reshape(by_sample.shape), shapes)
        if self.use is not None:
            return [input_gradient(self.use.func, self.use.args, self.use.x, natural[0])]
        return [one.contiguous() for one in natural]


class SegmentUpstream:
    """W̃_b of any site of a cut network, matrix-free, by reverse mode within its segment alone.

    W̃ᵀu is the vjp of the segment. That of a piece is linear in u, so that its own vjp is the piece's W̃v: no forward
    mode is needed, and nothing is computed twice. A linear layer or convolution at its end is applied by itself.
    """

    def __init__(self, site: Site, leaf: Sequence[Tensor], ends: Sequence[End], samples: int) -> None:
        self._site, self._leaf, self._given, self._batch = site, list(leaf), ends, samples
        self._samples = samples if site.has_samples else 1
        self._ends = [replace(end, samples=self._samples) for end in ends]
        self._tensors = [one for end in self._ends for one in end.tensors]
        self._rows = [sum(one.numel() for one in end.like) // self._samples for end in self._ends]
        self.like = site.by_sample([one.detach() for one in self._leaf], self._samples)
        self.input_dim = self.like.reshape(self._samples, -1).shape[1]
        self.output_dim = sum(self._rows)
        self.blocks = [(rows, end.site.has_samples) for rows, end in zip(self._rows, self._ends, strict=True)]
        """Rows of each end, and whether they are of samples."""

    def nearest(self, rows: int) -> "SegmentUpstream":
        there, ends = 0, []
        for end in self._given:
            if there < rows:
                there += sum(one.numel() for one in end.like) // (end.samples if end.site.has_samples else 1)
                ends.append(end)
        return SegmentUpstream(self._site, self._leaf, ends, self._batch)

    def apply(self, v: Tensor) -> Tensor:
        return _by_columns(self._apply, v)

    def apply_transpose(self, u: Tensor) -> Tensor:
        return _by_columns(self._apply_transpose, u)

    def dense(self) -> Tensor:
        d_out, d_in = self.output_dim, self.input_dim
        identity = torch.eye(min(d_out, d_in), dtype=self.like.dtype, device=self.like.device)
        columns = identity.expand(self._samples, -1, -1)
        return self.apply(columns) if d_in <= d_out else self.apply_transpose(columns).mT

    def _apply_transpose(self, u: Tensor) -> Tensor:
        parts = zip(self._ends, u.split(self._rows, 1), strict=True)
        cotangents = [one for end, part in parts for one in end.pulled(part)]
        found = pulled(zip(self._tensors, cotangents, strict=True), self._leaf)
        return self._site.by_sample(found, self._samples).reshape(self._samples, -1).to(u.dtype)

    @cached_property
    def _reverse(self) -> tuple[list[Tensor], list[Tensor]]:
        """u = 0 at the pieces' ends, and the vjp of u with a graph to it."""
        zeros = [torch.zeros_like(one, requires_grad=True) for one in self._tensors]
        with torch.enable_grad():
            found = torch.autograd.grad(self._tensors, self._leaf, zeros, create_graph=True, allow_unused=True)
        return zeros, [torch.zeros_like(s) if one is None else one for s, one in zip(self._leaf, found, strict=True)]

    def _apply(self, v: Tensor) -> Tensor:
        zeros, reverse = self._reverse
        tangents = self._site.natural(v.reshape(self.like.shape), [one.shape for one in self._leaf])
        found = iter(pulled(zip(reverse, (t.contiguous() for t in tangents), strict=True), zeros))
        return torch.cat([end.flat([next(found).to(v.dtype) for _ in end.tensors]) for end in self._ends], 1)


class UpstreamOfParts:
    """W̃ of a site without samples, for a batch in parts: every product cuts the network anew for each of them.

    Its rows are those of the batch at once: sample after sample of each end, and once of an end without samples.

    Args:
        site: the site.
        parts: of the batch, by samples.
        cut: the network, cut for some samples.
        one: the same of one of them.
        near: the rows of a sample that are taken at least; None: all.
    """

    def __init__(
        self,
        site: Site,
        parts: Sequence[slice],
        cut: Callable[[slice], CutNetwork],
        one: SegmentUpstream,
        near: int | None = None,
    ) -> None:
        self._site, self._parts, self._cut, self._one, self._near = site, parts, cut, one, near
        self.input_dim, samples = one.input_dim, parts[-1].stop
        self._each = [(rows, of_samples) for rows, of_samples in one.blocks]
        self._whole = [rows * samples if of_samples else rows for rows, of_samples in self._each]
        self.output_dim = sum(self._whole)

    def nearest(self, rows: int) -> "UpstreamOfParts":
        return UpstreamOfParts(self._site, self._parts, self._cut, self._one.nearest(rows), rows)

    def apply(self, v: Tensor) -> Tensor:
        found: list[list[Tensor]] = [[] for _ in self._each]
        for part, upstream in self._upstreams():
            split = upstream.apply(v).split([rows for rows, _ in upstream.blocks], 1)
            for (_, of_samples), blocks, one in zip(self._each, found, split, strict=True):
                if of_samples or not part.start:
                    blocks.append(one)
        return torch.cat([one for blocks in found for one in blocks], 1)

    def apply_transpose(self, u: Tensor) -> Tensor:
        ends, found = u.split(self._whole, 1), None
        for part, upstream in self._upstreams():
            own = []
            for (rows, of_samples), one in zip(self._each, ends, strict=True):
                if of_samples:
                    own.append(one[:, rows * part.start : rows * part.stop])
                else:
                    own.append(one if not part.start else torch.zeros_like(one))
            of_part = upstream.apply_transpose(torch.cat(own, 1))
            found = of_part if found is None else found + of_part
        assert found is not None
        return found

    def dense(self) -> Tensor:
        like = self._one.like
        return self.apply(torch.eye(self.input_dim, dtype=like.dtype, device=like.device).unsqueeze(0))

    def _upstreams(self) -> Iterator[tuple[slice, SegmentUpstream]]:
        for part in self._parts:
            upstream = self._cut(part).upstream(self._site)
            yield part, upstream if self._near is None else upstream.nearest(self._near)


def _shapes_of(values: Sequence[Tensor]) -> list[Tensor]:
    """Tensors like these that hold a single number."""
    return [one.detach().new_empty(1).expand(one.shape) for one in values]


def _by_columns(function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """function of [batch, d], or of each of the columns of [batch, d, columns]."""
    if vectors.dim() == 2:
        return function(vectors)
    return torch.stack([function(column) for column in vectors.unbind(-1)], -1)
