"""Tangents of sums and products with constants by hand, and of Dropout and attention, which are made of them.

PyTorch multiplies by the zero tangent of what has none. Of which shape that is it finds by kernels written in Python,
which take ten times what a small product does.
"""

import math
from collections.abc import Callable
from functools import reduce, wraps
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from fgcli.gradient.nested import no_view
from fgcli.gradient.normalise import NORMALISATIONS, taken_apart


def _with_constant(
    func: Any, of_first: Callable[[Tensor, Any], Tensor], of_second: Callable[[Tensor, Any], Tensor] | None = None
) -> Callable[..., Any]:
    """The operation of two values, by hand where one alone of them has a tangent.

    Args:
        func: the operation.
        of_first: its tangent from that of the first value, and the second.
        of_second: its tangent from that of the second value, and the first; None: as PyTorch has it.
    """

    @wraps(func)
    def called(*args: Any, **kwargs: Any) -> Any:
        plain, (first, second) = taken_apart(*args) if len(args) == 2 and not kwargs else (args, (None, None))
        along = of_first if second is None else of_second
        if (first is None) == (second is None) or along is None:
            return func(*args, **kwargs)
        y = func(*plain)
        with torch.no_grad():
            moved, constant = (first, args[1]) if second is None else (second, args[0])
            tangent = along(moved, constant).to(y.dtype)  # pyright: ignore[reportArgumentType]
            # A tensor of its own: what is done in place to y must reach nobody else's.
            tangent = tangent.expand_as(y).clone() if tangent is moved or tangent.shape != y.shape else tangent
        return forward_ad.make_dual(y, tangent)

    return called


_SUMS = {func: _with_constant(func, lambda t, _: t, lambda t, _: t) for func in (Tensor.add, torch.add)}
_DIFFERENCES = {func: _with_constant(func, lambda t, _: t, lambda t, _: -t) for func in (Tensor.sub, torch.sub)} | {
    Tensor.__rsub__: _with_constant(Tensor.__rsub__, lambda t, _: -t, lambda t, _: t)
}
_PRODUCTS = {func: _with_constant(func, torch.mul, torch.mul) for func in (Tensor.mul, torch.mul)}
_QUOTIENTS = {func: _with_constant(func, torch.div) for func in (Tensor.div, torch.div)}
times = _PRODUCTS[torch.mul]


@wraps(F.dropout)
def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """The same; where there is a tangent, a product with what is drawn for ones, which is what it draws."""
    (value,), (moved,) = taken_apart(input) if training and p and not inplace else ((input,), (None,))
    if moved is None:
        return F.dropout(input, p, training, inplace)
    return times(input, F.dropout(torch.ones_like(value), p))


@wraps(F.scaled_dot_product_attention)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The same, by Dropout of the weights, and written out where there are tangents."""
    refused = attn_mask is not None and (
        is_causal or not (attn_mask.dtype == torch.bool or attn_mask.is_floating_point())
    )  # by PyTorch, in its own words
    refused |= enable_gqa and any(query.size(-3) % one.size(-3) for one in (key, value))
    plain, moved = taken_apart(query, key, value, attn_mask)
    if refused or not (dropout_p or any(one is not None for one in moved)):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (one.repeat_interleave(query.size(-3) // one.size(-3), -3) for one in (key, value))
        plain, moved = taken_apart(query, key, value, attn_mask)
    if any(one is not None for one in moved):
        query, key, value, attn_mask = plain
    factor: float = query.shape[-1] ** -0.5 if scale is None else scale
    root = math.sqrt(abs(factor))
    query, key = query * math.copysign(root, factor), key * root
    products = query @ key.mT
    if is_causal:
        attn_mask = torch.ones(products.shape[-2:], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(~attn_mask, -torch.inf)
    # A mask in a higher precision leaves the products in theirs.
    products = products if attn_mask is None else (products + attn_mask).to(products.dtype)
    weights = torch.ops.aten._safe_softmax(products, -1)
    shares = F.dropout(torch.ones_like(weights), dropout_p) if dropout_p else None
    dropped = weights if shares is None else weights * shares
    y = dropped @ value
    if all(one is None for one in moved):
        return y
    with torch.no_grad():
        of_query, of_key, of_value, of_mask = moved
        parts = [] if of_query is None else [of_query * math.copysign(root, factor) @ key.mT]
        parts += [] if of_key is None else [query @ (of_key * root).mT]
        parts += [] if of_mask is None else [of_mask.to(products.dtype)]
        tangent = torch.zeros_like(y) if of_value is None else dropped @ of_value
        if parts:
            along = reduce(torch.add, parts)
            along = weights * (along - (weights * along).sum(-1, keepdim=True))
            tangent += (along if shares is None else along * shares) @ value
    return forward_ad.make_dual(y, no_view(tangent))


BY_HAND: dict[Any, Callable[..., Any]] = {
    **NORMALISATIONS, **_SUMS, **_DIFFERENCES, **_PRODUCTS, **_QUOTIENTS,
    F.scaled_dot_product_attention: attention, F.dropout: dropout,
}  # fmt: skip
"""By the function, the same with tangents by hand; arguments are those of it."""
