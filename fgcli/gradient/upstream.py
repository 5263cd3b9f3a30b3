"""Contract 1: the upstream Jacobian W̃ of a site, a linear operator per sample.

W̃_b maps the tangent space of s_i to that of all that is reached next: the outputs of the next sites (each inclusive:
its own layer is the last operation), and the model's output where a path gets there past all sites. What comes from
other sites is held fixed. The chain rule is then g_i = W̃_iᵀ (g_j, ..., ∂L/∂output), so that g_i lies in Im(W̃_iᵀ)
exactly, whatever branches and skips the network has. In a chain it is the paper's. On a residual stream it reaches past
every block: the first projection of each later block is a next site, and W̃_i has a block of rows for each.

Vectors are [batch, d]; a trailing axis of columns, [batch, d, columns], is allowed everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fgcli.gradient.passes import site_of
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.uses import Outputs, Use, Uses, leaves, rebuilt, run


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

    def dense(self) -> Tensor:
        return self.weight * self.slope.unsqueeze(1)


class CutNetwork:
    """One forward of a network that is cut at every use, with the graphs of what lies between.

    A site's output goes on as a leaf, so that no graph crosses a site. It is a pass (fgcli.gradient.uses).

    Args:
        model: the model.
        inputs: what it is called with.
        network: what the look at it found.
    """

    mode: Uses

    def __init__(self, model: nn.Module, inputs: Any, network: Network) -> None:
        self.network, self.samples = network, network.samples(inputs)
        self.given: dict[str, list[Tensor]] = {}
        """What a site's use gives, attached to the leaves before it."""
        self.going: dict[str, list[Tensor]] = {}
        """The leaves that go on in its place."""
        self.weights: dict[str, Tensor] = {}
        self.outputs = leaves(run(model, inputs, self))

    def visit(self, use: Use) -> Outputs:
        name = site_of(self.network, use).name
        outputs = use.call(lambda value: value)
        self.given[name] = leaves(outputs)
        self.going[name] = [one.detach().requires_grad_() for one in self.given[name]]
        self.weights[name] = use.weight
        return rebuilt(outputs, [one.clone() for one in self.going[name]])  # the next operation may be in place

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        return parameter.detach()

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        return func(*args, **kwargs)

    def s(self, site: Site) -> Tensor:
        """The site's output [samples, *shape]."""
        return site.by_sample([one.detach() for one in self.going[site.name]], self.samples)

    def upstream(self, site: Site) -> "SegmentUpstream":
        """W̃ of a site."""
        ends = [(self.network.sites[name], self.given[name]) for name in site.reaches if name in self.given]
        if site.reaches_output:
            pairs = zip(self.network.output_layouts, self.outputs, strict=True)
            ends += [(Site("", (), False, (layout,)), [one]) for layout, one in pairs]
        ends = [(end, some) for end, some in ends if any(one.requires_grad for one in some)]
        return SegmentUpstream(site, self.going[site.name], ends, self.samples if site.has_samples else 1)


class SegmentUpstream:
    """W̃_b of any site of a cut network, matrix-free, by reverse mode within its segment alone.

    W̃ᵀu is the vjp of the segment. It is linear in u, so that its own vjp is W̃v: no forward mode is needed, and nothing
    is computed a second time.
    """

    def __init__(
        self, site: Site, leaf: Sequence[Tensor], ends: Sequence[tuple[Site, Sequence[Tensor]]], samples: int
    ) -> None:
        self._site, self._leaf, self._ends, self._samples = site, list(leaf), list(ends), samples
        self._tensors = [one for _, some in ends for one in some]
        self._shapes = [one.shape for one in leaf]
        batch = samples if samples > 1 else None
        self._vectors = [self._flat(end, [one.detach() for one in some], batch) for end, some in ends]
        self.input_dim = site.by_sample([one.detach() for one in leaf], samples).reshape(samples, -1).shape[1]
        self.output_dim = sum(one.shape[1] for one in self._vectors)

    def _flat(self, end: Site, values: Sequence[Tensor], _: int | None) -> Tensor:
        return end.by_sample(values, self._samples).reshape(self._samples, -1)

    def apply(self, v: Tensor) -> Tensor:
        return _by_columns(self._apply, v)

    def apply_transpose(self, u: Tensor) -> Tensor:
        return _by_columns(self._apply_transpose, u)

    def dense(self) -> Tensor:
        d_out, d_in = self.output_dim, self.input_dim
        identity = torch.eye(min(d_out, d_in), dtype=self._leaf[0].dtype, device=self._leaf[0].device)
        columns = identity.expand(self._samples, -1, -1)
        return self.apply(columns) if d_in <= d_out else self.apply_transpose(columns).mT

    def _apply_transpose(self, u: Tensor) -> Tensor:
        found = torch.autograd.grad(
            self._tensors, self._leaf, self._cotangents(u), retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return self._site.by_sample(found, self._samples).reshape(self._samples, -1)

    def _cotangents(self, u: Tensor) -> list[Tensor]:
        parts = u.split([one.shape[1] for one in self._vectors], 1)
        found: list[Tensor] = []
        for (end, some), part in zip(self._ends, parts, strict=True):
            like = end.by_sample([one.detach() for one in some], self._samples)
            found += end.natural(part.reshape(like.shape), [one.shape for one in some])
        return [one.contiguous() for one in found]

    @cached_property
    def _reverse(self) -> tuple[list[Tensor], list[Tensor]]:
        """u = 0 with a graph to W̃ᵀu, and W̃ᵀu."""
        zeros = [torch.zeros_like(one, requires_grad=True) for one in self._tensors]
        with torch.enable_grad():
            pulled = torch.autograd.grad(self._tensors, self._leaf, zeros, create_graph=True, allow_unused=True)
        return zeros, [torch.zeros_like(s) if one is None else one for s, one in zip(self._leaf, pulled, strict=True)]

    def _apply(self, v: Tensor) -> Tensor:
        zeros, pulled = self._reverse
        like = self._site.by_sample([one.detach() for one in self._leaf], self._samples)
        tangents = self._site.natural(v.reshape(like.shape), self._shapes)
        pairs = [(one, t) for one, t in zip(pulled, tangents, strict=True) if one.requires_grad]
        found = torch.autograd.grad(
            [one for one, _ in pairs],
            zeros,
            [t.contiguous() for _, t in pairs],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        rest, parts = iter(found), []
        for end, some in self._ends:
            parts.append(self._flat(end, [next(rest) for _ in some], None))
        return torch.cat(parts, 1)


def _by_columns(function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """function of [batch, d], or of each of the columns of [batch, d, columns]."""
    if vectors.dim() == 2:
        return function(vectors)
    return torch.stack([function(column) for column in vectors.unbind(-1)], -1)
