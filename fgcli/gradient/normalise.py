"""Tangents of normalisations by their formulas. PyTorch composes them of others in Python, in 20 to 60 times the
forward's time."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from fgcli.gradient.nested import no_view, unpacked
from fgcli.gradient.unfollowed import transforms


def taken_apart(*values: Any) -> tuple[tuple[Any, ...], tuple[Tensor | None, ...]]:
    """Values without tangents, and these. Within transforms of torch.func they are left to PyTorch."""
    if transforms():
        return values, (None,) * len(values)
    plain, moved = zip(*map(unpacked, values), strict=True)
    return plain, moved


@wraps(F.layer_norm)  # for its name, in messages
def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    return _dual(
        lambda x, w, b: F.layer_norm(x, normalized_shape, w, b, eps),  # pyright: ignore[reportArgumentType]
        input, weight, bias, lambda v: v, lambda v: _whitened(v, axes, eps),
    )  # fmt: skip


@wraps(F.rms_norm)
def _rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))
    # In the lower precisions PyTorch computes with float32 and its eps.
    added = torch.finfo(torch.promote_types(input.dtype, torch.float32)).eps if eps is None else eps
    return _dual(
        lambda x, w, _: F.rms_norm(x, normalized_shape, w, eps),  # pyright: ignore[reportArgumentType]
        input, weight, None, lambda v: v, lambda v: _whitened(v, axes, added, centred=False),
    )  # fmt: skip


@wraps(F.group_norm)
def _group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    def whitened(v: Tensor) -> "_Whitened":
        size = v.shape[1:].numel() // num_groups
        unit, along = _whitened(v.reshape(len(v), num_groups, size), (-1,), eps)
        return unit.view_as(v), lambda t: along(t.reshape(len(t), num_groups, size)).view_as(t)

    return _dual(
        lambda x, w, b: F.group_norm(x, num_groups, w, b, eps), input, weight, bias, _by_channel(input), whitened
    )


@wraps(F.batch_norm)
def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training or running_mean is None or running_var is None:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    spread, mean, variance = _by_channel(input), running_mean, running_var

    def whitened(v: Tensor) -> "_Whitened":
        scale = spread((variance + eps).rsqrt())
        return (v - spread(mean)) * scale, lambda t: t * scale

    return _dual(
        lambda x, w, b: F.batch_norm(x, mean, variance, w, b, False, momentum, eps),
        input, weight, bias, spread, whitened,
    )  # fmt: skip


_Whitened = tuple[Tensor, Callable[[Tensor], Tensor]]
"""Values before scale and shift, and the tangent of these from that of the input."""


def _by_channel(x: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda v: v.view(-1, *[1] * (x.dim() - 2))


def _whitened(x: Tensor, axes: tuple[int, ...], eps: float, *, centred: bool = True) -> _Whitened:
    """x̂ = (x - mean) / deviation over `axes`, or x / root mean square; ẋ ↦ (ẋ - mean ẋ - x̂ mean(x̂ ẋ)) / deviation."""
    if centred:
        x = x - x.mean(axes, keepdim=True)
    size = math.prod(x.shape[axis] for axis in axes)
    inverse = (torch.linalg.vector_norm(x, dim=axes, keepdim=True).square_() / size + eps).rsqrt_()
    unit = x * inverse

    def along(tangent: Tensor) -> Tensor:
        own = tangent - tangent.mean(axes, keepdim=True) if centred else tangent.clone()
        return own.addcmul_(unit, (unit * own).mean(axes, keepdim=True), value=-1).mul_(inverse)

    return unit, along


def _dual(
    plain: Callable[[Tensor, Tensor | None, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    spread: Callable[[Tensor], Tensor],
    whitened: Callable[[Tensor], _Whitened],
) -> Tensor:
    """The normalisation, and its tangent, without a graph, from those of input, weight and bias."""
    values, moved = taken_apart(x, weight, bias)
    if all(one is None for one in moved):
        return plain(x, weight, bias)
    y = plain(*values)
    with torch.no_grad():
        wide = torch.promote_types(y.dtype, torch.float32)
        of_x, of_weight, of_bias = (None if one is None else one.to(wide) for one in moved)
        unit, along = whitened(values[0].to(wide))
        tangent = torch.zeros_like(unit) if of_x is None else along(of_x)
        if of_x is not None and weight is not None:
            tangent.mul_(spread(values[1].to(wide)))
        if of_weight is not None:
            tangent.addcmul_(unit, spread(of_weight))
        if of_bias is not None:
            tangent.add_(spread(of_bias))
        del unit
        tangent = tangent.to(y.dtype)
    return forward_ad.make_dual(y, no_view(tangent))


NORMALISATIONS: dict[Any, Callable[..., Tensor]] = {
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.group_norm: _group_norm,
    F.batch_norm: _batch_norm,
}
"""By the function of torch.nn.functional, the same with a formula for tangents; arguments are those of it."""
