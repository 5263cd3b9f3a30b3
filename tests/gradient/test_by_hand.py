"""Sums, products and attention with tangents by hand, beside PyTorch's own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from fgcli.gradient.by_hand import BY_HAND

SIZES = (3, 4)


class ByHand(TorchFunctionMode):
    """Operations of the table by hand, the others as they are."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        operation: Any = BY_HAND.get(func, func)
        return operation(*args, **(kwargs or {}))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.double) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def both(operation: Callable[..., Tensor], *moving: Tensor) -> None:
    """Value, tangent and gradient of the operation, by hand and PyTorch's own."""
    found = []
    for by_hand in (True, False):
        leaves = [one.clone().requires_grad_() for one in moving]
        with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            duals = [
                forward_ad.make_dual(one, normal(*one.shape, seed=7 + i, dtype=one.dtype))
                for i, one in enumerate(leaves)
            ]
            if by_hand:
                with ByHand():
                    y = operation(*duals)
            else:
                y = operation(*duals)
            primal, tangent = forward_ad.unpack_dual(y)
            assert tangent is not None
            gradients = torch.autograd.grad(primal.sum(), leaves)
            found.append((primal.detach(), tangent.detach(), gradients))
    torch.testing.assert_close(*found, rtol=1e-12 if moving[0].dtype == torch.double else 1e-6, atol=0)


@pytest.mark.parametrize(
    "operation",
    [
        lambda x, c: x + c,
        lambda x, c: c + x,
        lambda x, c: x - c,
        lambda x, c: c - x,
        lambda x, c: x * c,
        lambda x, c: c * x,
        lambda x, c: x / c,
        lambda x, c: c / x,
        lambda x, c: torch.add(x, c, alpha=2),
        lambda x, c: x.sub(c),
        lambda x, c: torch.mul(c, x) if isinstance(c, Tensor) else torch.mul(x, c),
        lambda x, c: torch.div(x, c),
        lambda x, c: torch.div(x, c, rounding_mode=None),
    ],
)
@pytest.mark.parametrize(
    "constant",
    [2, 0.3, normal(*SIZES, seed=1), normal(4, seed=1), normal(2, 1, 1, seed=1), torch.tensor(3), torch.tensor(0.5)],
)
@pytest.mark.parametrize("dtype", [torch.double, torch.float])
def test_sums_and_products_with_a_constant(operation: Any, constant: Any, dtype: torch.dtype) -> None:
    both(lambda x: operation(x, constant), normal(*SIZES, dtype=dtype))
    if isinstance(constant, Tensor):
        small = normal(4, dtype=dtype)
        both(lambda x: operation(x, constant), small)


def test_two_with_tangents_and_none() -> None:
    x, y = normal(*SIZES), normal(*SIZES, seed=1)
    for operation in (torch.add, torch.sub, torch.mul, torch.div):
        both(operation, x, y)
        assert torch.equal(BY_HAND[operation](x, y), operation(x, y))


@pytest.mark.parametrize("operation", [lambda x: x + 1, lambda x: 1 - x, lambda x: x * 2, lambda x: x - torch.ones(4)])
def test_what_is_done_in_place_reaches_nobody_else(operation: Any) -> None:
    def changed(x: Tensor) -> Tensor:
        y = operation(x)
        y.mul_(3)
        return x * x + y

    both(changed, normal(*SIZES))


def test_no_rule_within_a_transform_of_torch_func() -> None:
    x = normal(*SIZES)
    with ByHand():
        found = torch.func.jvp(lambda x: 2 * x + 1, (x,), (torch.ones_like(x),))[1]
    assert torch.equal(found, torch.full_like(x, 2))


BOOLEAN = torch.tensor([[True, False, True, True], [False, False, False, False], [True] * 4])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"attn_mask": BOOLEAN},
        {"attn_mask": normal(3, 4, seed=5)},
        {"scale": 0.7},
        {"scale": -0.7},
        {"is_causal": True},
        {"dropout_p": 0.4},
        {"dropout_p": 0.4, "is_causal": True},
        {"dropout_p": 0.4, "attn_mask": BOOLEAN},
    ],
)
@pytest.mark.parametrize("moving", [(0, 1, 2), (0,), (2,)])
def test_attention(settings: dict[str, Any], moving: tuple[int, ...]) -> None:
    given = [normal(2, 2, 3, 5), normal(2, 2, 4, 5, seed=1), normal(2, 2, 4, 5, seed=2)]

    def attended(*some: Tensor) -> Tensor:
        torch.manual_seed(0)
        q, k, v = (some[moving.index(i)] if i in moving else one for i, one in enumerate(given))
        return F.scaled_dot_product_attention(q, k, v, **settings)

    both(attended, *(given[i] for i in moving))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"attn_mask": BOOLEAN, "is_causal": True}, "attn_mask"),
        ({"attn_mask": torch.ones(3, 4, dtype=torch.long)}, "attn_mask"),
        ({"enable_gqa": True}, "must divide the number of heads"),
    ],
)
@pytest.mark.parametrize("p", [0.0, 0.4])
def test_what_pytorch_refuses_is_refused(settings: dict[str, Any], said: str, p: float) -> None:
    q, k, v = normal(2, 1, 3, 5), normal(2, 2, 4, 5, seed=1), normal(2, 2, 4, 5, seed=2)
    with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH), ByHand():
        moving = forward_ad.make_dual(q, torch.ones_like(q))
        with pytest.raises(RuntimeError, match=said):
            F.scaled_dot_product_attention(moving, k, v, dropout_p=p, **settings)


def test_attention_in_a_lower_precision_than_its_mask() -> None:
    q, k, v = (normal(2, 2, 4, 8, seed=seed, dtype=torch.bfloat16) for seed in range(3))
    with forward_ad.dual_level(), ByHand():
        moving = forward_ad.make_dual(q, torch.ones_like(q))
        y = F.scaled_dot_product_attention(moving, k, v, normal(4, 4, dtype=torch.float))
    assert y.dtype == torch.bfloat16


def test_attention_of_groups() -> None:
    q, k, v = normal(2, 4, 3, 5), normal(2, 2, 4, 5, seed=1), normal(2, 2, 4, 5, seed=2)
    both(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True), q, k, v)


def test_attention_whose_mask_has_a_tangent() -> None:
    q, k, v = normal(2, 2, 3, 5), normal(2, 2, 4, 5, seed=1), normal(2, 2, 4, 5, seed=2)
    both(lambda mask: F.scaled_dot_product_attention(q, k, v, mask), normal(3, 4, seed=5))
