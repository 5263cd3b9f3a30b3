"""The normalisations' tangents are PyTorch's own."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F

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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.half])
def test_in_a_lower_precision_the_tangent_is_as_exact_as_the_value(dtype: torch.dtype) -> None:
    x, t = normal(2, 64, 32).to(dtype)
    with forward_ad.dual_level():
        y = NORMALISATIONS[F.layer_norm](forward_ad.make_dual(x, t), (32,))
        exact = F.layer_norm(forward_ad.make_dual(x.double(), t.double()), (32,))
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
