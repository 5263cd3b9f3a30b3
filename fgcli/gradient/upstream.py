"""Contract 1: the upstream Jacobian W̃ of a site, a linear operator per sample.

W̃_b maps the tangent space of s_i to that of s_{i+1}, the next site's output. Vectors are [batch, d]; a trailing
axis of columns, [batch, d, columns], is allowed everywhere.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


class UpstreamJacobian(Protocol):
    """W̃, one matrix per sample, known by what it does to vectors."""

    @property
    def input_dim(self) -> int:
        """d_in, the dimension of s_i."""
        ...

    @property
    def output_dim(self) -> int:
        """d_out, the dimension of s_{i+1}."""
        ...

    def apply(self, v: Tensor) -> Tensor:
        """W̃_b v_b: [batch, d_in] -> [batch, d_out]."""
        ...

    def apply_transpose(self, u: Tensor) -> Tensor:
        """W̃_bᵀ u_b: [batch, d_out] -> [batch, d_in]."""
        ...

    def dense(self) -> Tensor:
        """[batch, d_out, d_in]. For oracles and the paper's literal methods."""
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


class SegmentUpstream:
    """W̃_b, the Jacobian of a function of s_i at s_i, matrix-free: by jvp and vjp of that function alone.

    function: [batch, *shape] -> [batch, d_out], sample by sample. It is evaluated once for all products with W̃ᵀ, and
    once for each call of `apply`. Not to be called within a dual level: PyTorch nests none.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], s: Tensor) -> None:
        self._function, self._s = function, s

    @property
    def input_dim(self) -> int:
        return math.prod(self._s.shape[1:])

    @property
    def output_dim(self) -> int:
        return self._pullback[0].shape[1]

    @cached_property
    def _pullback(self) -> tuple[Tensor, Callable[[Tensor], tuple[Tensor]]]:
        with torch.no_grad(), math_attention():
            value, pull, *_ = torch.func.vjp(self._function, self._s)
        return value, pull

    def apply(self, v: Tensor) -> Tensor:
        with torch.no_grad(), math_attention():
            return _by_columns(lambda one: torch.func.jvp(self._function, (self._s,), (one.view_as(self._s),))[1], v)

    def apply_transpose(self, u: Tensor) -> Tensor:
        _, pull = self._pullback
        with torch.no_grad():
            return _by_columns(lambda one: pull(one)[0].flatten(1), u)

    def dense(self) -> Tensor:
        d_out, d_in = self.output_dim, self.input_dim
        identity = torch.eye(min(d_out, d_in), dtype=self._s.dtype, device=self._s.device).expand(len(self._s), -1, -1)
        return self.apply(identity) if d_in <= d_out else self.apply_transpose(identity).mT


def _by_columns(function: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """function of [batch, d], or of each of the columns of [batch, d, columns] at once."""
    if vectors.dim() == 2:
        return function(vectors.contiguous())
    columns = vectors.movedim(-1, 0).contiguous()
    return torch.vmap(function)(columns).movedim(0, -1)


@contextmanager
def math_attention() -> Iterator[None]:
    """Within it, attention has a forward-mode formula: fused kernels have none, on any device.

    Neither has the whole layer that torch.nn's transformers call in eval mode, which torch.fx cannot follow either.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def relu_slope(s: Tensor) -> Tensor:
    """The derivative of ReLU, 0 at 0 as in PyTorch: [batch, d] -> [batch, d]."""
    return s.sign().clamp_min_(0)  # an eighth of the time of (s > 0).to(s.dtype)
