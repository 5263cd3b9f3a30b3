"""Weight perturbation: its directional derivative is the inner product with the true gradient of every parameter."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact import backward, drawing, smooth
from networks import any_network, batch_for, chain, cross_entropy, residual
from torch import Tensor, nn
from zoo import ZOO, inputs_of, made

from fgcli import ForwardGradient, UsageError
from fgcli.gradient.errors import ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams
from fgcli.gradient.uses import call
from fgcli.methods.options import WeightPerturbationOptions
from fgcli.methods.weight_perturbation import WeightPerturbation

RNG = Streams(3).at(7)


class Reused(nn.Module):
    """One weight used in its layer and beside it, another tied, a third read without calling its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(5, 5) for _ in range(4))
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.a(x)) + F.linear(x, self.a.weight)
        h = self.c(torch.tanh(self.b(h)))
        return F.linear(h, self.d.weight, self.d.bias)


def reused() -> nn.Module:
    torch.manual_seed(0)
    return Reused().double()


MODELS = {"bias": chain(5, 7, 4, bias=True), "residual": residual(), "reused": reused()}


@pytest.mark.parametrize("name", MODELS)
def test_directional_derivative_and_gradients(name: str) -> None:
    model = MODELS[name]
    batch = batch_for(model, 6)
    estimator = WeightPerturbation(WeightPerturbationOptions())
    estimator.bind(model, batch.inputs)
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    parameters = dict(model.named_parameters())
    directions = {name: RNG.normal("weight", name, tuple(p.shape), p) for name, p in parameters.items()}
    loss = cross_entropy(model(batch.inputs), batch.targets).mean()
    exact = torch.autograd.grad(loss, list(parameters.values()))
    expected = sum(float((g * v).sum()) for g, v in zip(exact, directions.values(), strict=True))
    delta = estimate.directional_derivative
    assert delta is not None
    assert float(delta.sum()) == pytest.approx(expected, rel=1e-9)
    for key, direction in directions.items():
        torch.testing.assert_close(estimate.gradients[key], delta.sum() * direction)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("chunk", "memory"), [(None, "store"), (2, "store"), (2, "replay")])
def test_several_tangents(name: str, chunk: int | None, memory: Any) -> None:
    model = MODELS[name]
    batch = batch_for(model, 6)
    estimator = WeightPerturbation(WeightPerturbationOptions(tangents=3, tangent_chunk=chunk, memory=memory))
    estimator.bind(model, batch.inputs)
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    delta = estimate.directional_derivative
    assert delta is not None
    parameters = dict(model.named_parameters())
    loss = cross_entropy(model(batch.inputs), batch.targets).mean()
    exact = torch.autograd.grad(loss, list(parameters.values()))
    directions = [
        {key: RNG.normal(f"weight-{k}" if k else "weight", key, tuple(p.shape), p) for key, p in parameters.items()}
        for k in range(3)
    ]
    along = [sum((g * one[key]).sum() for g, key in zip(exact, parameters, strict=True)) for one in directions]
    torch.testing.assert_close(delta.sum(0), torch.stack([torch.as_tensor(total) for total in along]))
    for key in parameters:
        expected = sum(total * one[key] for total, one in zip(along, directions, strict=True)) / 3
        torch.testing.assert_close(estimate.gradients[key], expected)


@pytest.mark.parametrize(("combine", "memory"), [("orthogonal", "store"), ("projection", "replay")])
def test_as_many_tangents_as_parameters_give_the_gradient(combine: Any, memory: Any) -> None:
    model = chain(2, 3, 2)
    batch = batch_for(model, 4)
    estimator = WeightPerturbation(
        WeightPerturbationOptions(tangents=12, combine=combine, shrinkage=1e-14, memory=memory)
    )
    estimator.bind(model, batch.inputs)
    estimate = estimator.estimate(model, cross_entropy, batch, RNG)
    loss = cross_entropy(model(batch.inputs), batch.targets).mean()
    exact = torch.autograd.grad(loss, list(model.parameters()))
    for found, expected in zip(estimate.gradients.values(), exact, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)
    with pytest.raises(OptionRefused, match=r"tangents is 13; .* at most 12 here"):
        WeightPerturbation(WeightPerturbationOptions(tangents=13, combine="orthogonal")).bind(model, batch.inputs)


def test_fused_attention_is_computed_by_its_formula_for_several_tangents_too() -> None:
    model, batch = any_network("attention")
    single, several = (
        WeightPerturbation(WeightPerturbationOptions()),
        WeightPerturbation(WeightPerturbationOptions(tangents=2)),
    )
    for estimator in (single, several):
        estimator.bind(model, batch.inputs)
    deltas = [one.estimate(model, cross_entropy, batch, RNG).directional_derivative for one in (single, several)]
    assert deltas[0] is not None
    assert deltas[1] is not None
    torch.testing.assert_close(deltas[1][:, 0], deltas[0])


class Between(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        match self.what:
            case "formula":
                self.mean.lerp_(x.mean(0), 0.1)
                return torch.special.zeta(x.abs() + 2, torch.ones_like(x))
            case "branch":
                return x.sin() if bool(x.sum() > 0) else x.cos()
            case _:
                return x - self.mean.lerp_(x.mean(0), 0.1)


@pytest.mark.parametrize("tangents", [1, 2])
def test_an_operation_without_formula_is_named_by_what_comes_before(tangents: int) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), Between("formula")), torch.randn(3, 4)
    with pytest.raises(ModelRefused, match=r"^site '0' is followed by .*zeta.* no forward-mode formula .*backprop"):
        WeightPerturbation(WeightPerturbationOptions(tangents=tangents)).bind(model, x)
    assert not model.get_buffer("1.mean").any()


@pytest.mark.parametrize("memory", ["store", "replay"])
@pytest.mark.parametrize("what", ["branch", "state"])
def test_what_torch_func_cannot_follow_has_a_pass_for_each_tangent(what: str, memory: Any) -> None:
    """Branches on values, and a buffer that the forward changes: the last one's statistics are those of one forward."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Between(what), nn.Linear(4, 3)).double()
    batch = batch_for(model, 6)
    model.get_buffer("1.mean").zero_()
    twin = copy.deepcopy(model)
    size = sum(p.numel() for p in model.parameters())
    estimator = WeightPerturbation(WeightPerturbationOptions(tangents=size, combine="orthogonal", memory=memory))
    estimator.bind(model, batch.inputs)
    assert not model.get_buffer("1.mean").any()
    found = estimator.estimate(model, cross_entropy, batch, RNG)
    losses = cross_entropy(twin(batch.inputs), batch.targets)
    exact = torch.autograd.grad(losses.mean(), list(twin.parameters()))
    torch.testing.assert_close(found.losses, losses.detach())
    torch.testing.assert_close(model.get_buffer("1.mean"), twin.get_buffer("1.mean").detach())
    for (name, _), expected in zip(twin.named_parameters(), exact, strict=True):
        torch.testing.assert_close(found.gradients[name], expected, rtol=1e-6, atol=1e-8)


def test_a_look_at_the_model_leaves_its_buffers() -> None:
    between = Between("state")
    WeightPerturbation(WeightPerturbationOptions()).bind(nn.Sequential(nn.Linear(4, 4), between), torch.randn(3, 4))
    assert not between.mean.any()


WITHOUT = [name for name in ZOO if "embedding bag" in name]
"""PyTorch has no forward-mode formula for it."""


@pytest.mark.parametrize("name", WITHOUT)
def test_an_operation_without_a_formula_is_refused_by_name(name: str) -> None:
    with pytest.raises(ModelRefused, match="forward-mode formula"):
        WeightPerturbation(WeightPerturbationOptions()).bind(made(name), inputs_of(name, 3))


@pytest.mark.parametrize("tangents", [1, 4])
@pytest.mark.parametrize(
    "name", [name for name, kind in ZOO.items() if kind.dtype == torch.float64 and name not in WITHOUT]
)
def test_in_the_zoo_each_derivative_is_the_inner_product_with_the_gradient(name: str, tangents: int) -> None:
    """With the directions of its keys; dropout and other draws are those of `backward`, statistics too."""
    if tangents > 1 and ("dropout" in name or name == "noise"):
        pytest.skip("torch.func draws other random numbers, the same for all tangents")
    model, batch = made(name), Batch(inputs_of(name, 3), None)
    exact = backward(model, smooth, batch)
    twin = made(name)
    with drawing():
        call(twin, batch.inputs)
    estimator = WeightPerturbation(WeightPerturbationOptions(tangents=tangents))
    estimator.bind(model, batch.inputs)
    with drawing():
        found = estimator.estimate(model, smooth, batch, RNG)
    directions = {
        key: torch.stack(
            [RNG.normal(f"weight-{k}" if k else "weight", key, tuple(g.shape), g) for k in range(tangents)]
        )
        for key, g in exact.items()
    }
    along = torch.stack([(directions[key] * g).reshape(tangents, -1).sum(1) for key, g in exact.items()]).sum(0)
    delta = found.directional_derivative
    assert delta is not None
    torch.testing.assert_close(delta.view(-1, tangents).sum(0), along, rtol=1e-9, atol=1e-11)
    for key, v in directions.items():
        torch.testing.assert_close(found.gradients[key], torch.tensordot(along / tangents, v, dims=1))
    for key, buffer in twin.named_buffers():
        torch.testing.assert_close(model.get_buffer(key), buffer)


@pytest.mark.parametrize("option", [{"feedback": "local"}, {"output_gradient": "exact"}])
def test_options_of_guesses_are_refused(option: dict[str, Any]) -> None:
    """They were taken and ignored: a run was called feedback that was none."""
    with pytest.raises(UsageError, match=f"unknown option '{next(iter(option))}' of method weight"):
        ForwardGradient(nn.Linear(2, 3), "weight-perturbation", **option)
