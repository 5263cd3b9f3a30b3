import inspect
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from fgcli.training.optimizers import adam, adamw, sgd
from fgcli.training.options import AdamOptions, AdamWOptions, SGDOptions

CASES = [
    pytest.param(adamw, AdamWOptions, torch.optim.AdamW, {}, id="adamw"),
    pytest.param(adamw, AdamWOptions, torch.optim.AdamW, {"betas": (0.5, 0.6), "eps": 0.1}, id="adamw-betas"),
    pytest.param(adamw, AdamWOptions, torch.optim.AdamW, {"weight_decay": 2.0, "amsgrad": True}, id="adamw-decay"),
    pytest.param(adam, AdamOptions, torch.optim.Adam, {}, id="adam"),
    pytest.param(adam, AdamOptions, torch.optim.Adam, {"weight_decay": 2.0, "amsgrad": True}, id="adam-decay"),
    pytest.param(sgd, SGDOptions, torch.optim.SGD, {}, id="sgd"),
    pytest.param(sgd, SGDOptions, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}, id="sgd-momentum"),
    pytest.param(sgd, SGDOptions, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, id="sgd-nesterov"),
    pytest.param(sgd, SGDOptions, torch.optim.SGD, {"weight_decay": 2.0}, id="sgd-decay"),
]


def parameters(requires_grad):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_(requires_grad)
        for shape in [(3, 4), (5,)]
    ]


def step(optimizer, tensors, steps=5):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for tensor in tensors:
            tensor.grad = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        optimizer.step()


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize(("make", "options", "reference", "given"), CASES)
def test_steps_as_pytorchs_plain_loop(make, options, reference, given: dict[str, Any], requires_grad):
    found, expected = parameters(requires_grad), parameters(True)
    step(make(options(**given), iter(found), 0.01), found)
    step(reference(expected, lr=0.01, foreach=False, fused=False, **given), expected)
    for a, b, start in zip(found, expected, parameters(False), strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-12, atol=1e-12)
        assert (a.detach() - start).abs().min() > 0


def test_adamw_is_the_papers_recursion():
    """Loshchilov and Hutter, Algorithm 2, written out."""
    (found, _) = tensors = parameters(False)
    rate, first, second, eps, decay = 0.01, 0.8, 0.95, 1e-3, 0.5
    theta, m, v = found.clone(), torch.zeros_like(found), torch.zeros_like(found)
    step(adamw(AdamWOptions(betas=(first, second), eps=eps, weight_decay=decay), [found], rate), tensors)
    generator = torch.Generator().manual_seed(1)
    for t in range(1, 6):
        gradient, _ = (torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in tensors)
        m = first * m + (1 - first) * gradient
        v = second * v + (1 - second) * gradient**2
        update = (m / (1 - first**t)) / ((v / (1 - second**t)).sqrt() + eps)
        theta = theta - rate * decay * theta - rate * update
    torch.testing.assert_close(found, theta, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "reference"),
    [(AdamWOptions, torch.optim.AdamW), (AdamOptions, torch.optim.Adam), (SGDOptions, torch.optim.SGD)],
)
def test_defaults_are_pytorchs(options, reference):
    theirs = inspect.signature(reference).parameters
    for name, value in options().model_dump().items():
        assert value == theirs[name].default, name


@pytest.mark.parametrize(("make", "options"), [(adamw, AdamWOptions), (adam, AdamOptions), (sgd, SGDOptions)])
def test_fused_where_the_device_has_it(make, options):
    assert make(options(), [torch.zeros(2)], 0.1).param_groups[0]["fused"] is True
    assert make(options(), [torch.zeros(2, device="meta")], 0.1).param_groups[0]["fused"] is False


def test_a_parameter_without_gradient_stays():
    trained, frozen = torch.ones(2), torch.ones(2)
    trained.grad = torch.ones(2)
    adamw(AdamWOptions(), [trained, frozen], 0.1).step()
    assert torch.equal(frozen, torch.ones(2))
    assert not torch.equal(trained, torch.ones(2))


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        (AdamWOptions, {"betas": (1.0, 0.9)}, "less than 1"),
        (AdamWOptions, {"betas": (0.9,)}, "betas"),
        (AdamWOptions, {"eps": -1.0}, "greater than or equal to 0"),
        (AdamOptions, {"weight_decay": float("inf")}, "finite"),
        (SGDOptions, {"momentum": -0.1}, "greater than or equal to 0"),
        (SGDOptions, {"dampening": float("nan")}, "finite"),
        (SGDOptions, {"nesterov": True}, r"momentum 0\.0 .*must be above 0"),
        (SGDOptions, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, r"dampening 0\.1"),
    ],
)
def test_options_out_of_bounds_are_refused(options, given, message):
    with pytest.raises(ValidationError, match=message):
        options(**given)
