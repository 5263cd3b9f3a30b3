"""Contract 1: the upstream Jacobian W̃ of a site, a linear operator per sample.

W̃_b maps the tangent space of s_i to that of s_{i+1}, the next site's output. Vectors are [batch, d]; a trailing
axis of columns, [batch, d, columns], is allowed everywhere.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class UpstreamJacobian(Protocol):
    """W̃, one matrix per sample, known by what it does to vectors."""

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
    def output_dim(self) -> int:
        return self.weight.shape[0]

    def apply(self, v: Tensor) -> Tensor:
        if v.dim() == 2:
            return (v * self.slope) @ self.weight.T
        return self.weight @ (v * self.slope.unsqueeze(-1))

    def apply_transpose(self, u: Tensor) -> Tensor:
        if u.dim() == 2:
            return (u @ self.weight).mul_(self.slope)
        return (self.weight.T @ u).mul_(self.slope.unsqueeze(-1))

    def dense(self) -> Tensor:
        return self.weight * self.slope.unsqueeze(1)


def relu_slope(s: Tensor) -> Tensor:
    """The derivative of ReLU, 0 at 0 as in PyTorch: [batch, d] -> [batch, d]."""
    return s.sign().clamp_min_(0)  # an eighth of the time of (s > 0).to(s.dtype)
