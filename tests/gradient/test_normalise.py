"""The normalisations' tangents are PyTorch's own."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import nn

from fgcli import ForwardGradient
from fgcli.gradient.normalise import NORMALISATIONS


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.double)


MEAN, VARIANCE = torch.tensor([[0.3, -1.0, 2.0, 0.0], [0.5, 2.0, 1.0, 3.0]], dtype=torch.double)
CASES = {
    "layer-norm": (F.layer_norm, (5, 4), lambda f, x, w, b: f(x, (4,), w, b)),
    "layer-norm, two axes": (F.layer_norm, (3, 2, 4), lambda f, x, w, b: f(x, (2, 4), None, None, eps=0.1)),
    "layer-norm, by keyword": (F.layer_norm, (5, 4), lambda f, x, w, b: f(x, normalized_shape=(4,), bias=b, eps=0.1)),
    "rms-norm": (F.rms_norm, (2, 3, 4), lambda f, x, w, b: f(x, (4,), w)),
    "rms-norm, no weight": (F.rms_norm, (2, 3, 4), lambda f, x, w, b: f(x, (4,), eps=0.1)),
    "group-norm": (F.group_norm, (3, 4, 5, 2), lambda f, x, w, b: f(x, 2, w, b)),
    "group-norm, no axes": (F.group_norm, (3, 4), lambda f, x, w, b: f(x, 2, w, None, 0.1)),
    "batch-norm in eval mode": (
        F.batch_norm,
        (3, 4, 5),
        lambda f, x, w, b: f(x, MEAN, VARIANCE, w, b, False, 0.1, 0.1),
    ),
    "batch-norm in train mode": (F.batch_norm, (6, 4), lambda f, x, w, b: f(x, None, None, w, b, True)),
}


@pytest.mark.parametrize(
    "moving", [(True, False, False), (False, True, True), (False, False, True), (True, True, True)]
)
@pytest.mark.parametrize("name", CASES)
def test_tangents_are_those_of_pytorch(name: str, moving: tuple[bool, ...]) -> None:
    func, shape, call = CASES[name]
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(size, generator=generator, dtype=torch.double) for size in (shape, (4,), (4,))]
    along = [torch.randn(size, generator=generator, dtype=torch.double) for size in (shape, (4,), (4,))]

    def of(f: object) -> tuple[torch.Tensor, torch.Tensor | None]:
        with forward_ad.dual_level():
            pairs = zip(given, along, moving, strict=True)
            x, w, b = (forward_ad.make_dual(one, t) if moves else one for one, t, moves in pairs)
            y, tangent = forward_ad.unpack_dual(call(f, x, w, b))
            return y, tangent

    (y, tangent), (expected, theirs) = of(NORMALISATIONS[func]), of(func)
    assert torch.equal(y, expected)
    if theirs is None:
        assert tangent is None
    else:
        torch.testing.assert_close(tangent, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("func", [F.layer_norm, F.rms_norm])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
@pytest.mark.parametrize("scale", [1.0, 1e-2])  # of the smaller, what stands for eps matters
def test_in_a_lower_precision_the_tangent_is_as_exact_as_the_value(
    func: Callable[..., torch.Tensor], dtype: torch.dtype, scale: float
) -> None:
    x, t = (normal(2, 64, 32) * scale).to(dtype)
    with forward_ad.dual_level():
        y = NORMALISATIONS[func](forward_ad.make_dual(x, t), (32,))
        exact = func(forward_ad.make_dual(x.float(), t.float()), (32,)).double()
        (_, found), (_, expected) = forward_ad.unpack_dual(y), forward_ad.unpack_dual(exact)
    assert found is not None
    assert expected is not None
    assert found.dtype is dtype
    assert float((found.double() - expected).abs().max()) < 4 * torch.finfo(dtype).eps * float(expected.abs().max())


def test_the_primal_keeps_its_graph_and_a_transform_its_own_formula() -> None:
    x, t = normal(2, 5, 4)
    x.requires_grad_()
    with forward_ad.dual_level():
        y = NORMALISATIONS[F.layer_norm](forward_ad.make_dual(x, t), (4,))
        (mine,) = torch.autograd.grad(forward_ad.unpack_dual(y).primal[:, 0].sum(), x)
    (theirs,) = torch.autograd.grad(F.layer_norm(x, (4,))[:, 0].sum(), x)
    torch.testing.assert_close(mine, theirs)
    both = [
        torch.func.jvp(lambda v, f=f: f(v, (4,)), (x.detach(),), (t,))[1]
        for f in (F.layer_norm, NORMALISATIONS[F.layer_norm])
    ]
    torch.testing.assert_close(both[0], both[1])


def test_of_no_samples_there_is_a_tangent() -> None:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(torch.zeros(0, 4, 3), torch.zeros(0, 4, 3))
        for func, call in ((F.group_norm, 2), (F.layer_norm, (3,))):
            tangent = forward_ad.unpack_dual(NORMALISATIONS[func](x, call)).tangent
            assert tangent is not None
            assert tangent.shape == x.shape


@pytest.mark.parametrize(
    "layer",
    [nn.GroupNorm(2, 4), nn.GroupNorm(2, 4, affine=False), nn.ConvTranspose2d(4, 4, 1), nn.BatchNorm2d(4).eval()],
)
@pytest.mark.parametrize("options", [{"feedback": "local"}, {"feedback": "direct", "correction": 1.0}, {}])
def test_a_forward_may_go_on_in_place(layer: nn.Module, options: dict[str, Any]) -> None:
    def gradients(in_place: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        first, second, last = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(64, 3)
        behind = copy.deepcopy(layer), nn.ReLU(inplace=in_place), nn.Flatten(), last
        model = nn.Sequential(first, nn.ReLU(), second, *behind).double()
        model[3].eval()
        x, y = torch.randn(8, 2, 6, 6, dtype=torch.double), torch.randint(3, (8,))
        ForwardGradient(model, "activation-perturbation", **options).step(x, y, F.cross_entropy)
        return [one.grad for one in model.parameters() if one.grad is not None]

    for one, other in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(one, other)
