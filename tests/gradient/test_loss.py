"""Losses of every form: e, δ and the gradients that they make, held to `backward`, in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact import backward, summed
from networks import batch_for, chain
from parts import in_parts
from torch import Tensor, nn

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import LossRefused
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.loss import output_gradient
from fgcli.gradient.randomness import Streams
from fgcli.gradient.sites import NOWHERE, PLAIN, Layout
from fgcli.gradient.tangents import Tangents
from fgcli.methods.options import WeightPerturbationOptions
from fgcli.methods.weight_perturbation import WeightPerturbation

RNG = Streams(3).at(7)
MODEL = chain(5, 4, 4, bias=True)
TOKENS = nn.Sequential(nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4)).double()


def in_batch_negatives(outputs: Tensor, _: Any) -> Tensor:
    """Each sample is told from all others of its batch."""
    z = F.normalize(outputs, dim=1)
    similarity = (z @ z.T / 0.2).masked_fill(torch.eye(len(outputs), dtype=torch.bool), -9.0)
    return F.cross_entropy(similarity, (torch.arange(len(outputs)) + 1) % len(outputs), reduction="none")


def ignoring(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, torch.where(targets == 0, -100, targets))


@pytest.mark.parametrize(
    "estimator",
    [GuessEstimator(Isotropic()), WeightPerturbation(WeightPerturbationOptions())],
    ids=["guess", "weights"],
)
def test_a_loss_that_depends_on_a_weight_is_refused(estimator: Any) -> None:
    """Its penalty's gradient would be lost."""
    batch = batch_for(MODEL, 6)
    weight = next(MODEL.parameters())

    def penalised(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets) + weight.square().sum()

    estimator.bind(MODEL, batch.inputs)
    with pytest.raises(LossRefused, match=r"a trained tensor of shape \[4, 5\] beside the model's outputs"):
        estimator.estimate(MODEL, penalised, batch, RNG)


WEIGHTS = torch.tensor([0.1, 2.0, 1.0, 0.5], dtype=torch.float64)


def own_derivative(outputs: Tensor, _: Tensor) -> Tensor:
    (slope,) = torch.autograd.grad(outputs.pow(3).sum(), outputs, create_graph=True)
    return slope.square().sum(1)


LOSSES: dict[str, Loss] = {
    "none": lambda o, t: F.cross_entropy(o, t, reduction="none"),
    "mean": F.cross_entropy,
    "sum": lambda o, t: F.cross_entropy(o, t, reduction="sum"),
    "class weights": lambda o, t: F.cross_entropy(o, t, WEIGHTS),
    "ignored targets": ignoring,
    "in-batch negatives": in_batch_negatives,
    "their mean": lambda o, t: in_batch_negatives(o, t).mean(),
    "regression": lambda o, t: F.mse_loss(o, F.one_hot(t, 4).to(o), reduction="none").mean(1),
    "regression, each output": lambda o, t: F.mse_loss(o, F.one_hot(t, 4).to(o), reduction="none"),
    "of the batch's spread": lambda o, _: o.std(0).sum(),
    "changing outputs in place": lambda o, t: F.cross_entropy(o.mul_(2), t, reduction="none"),
    "of its own derivative": own_derivative,
    "of one axis": lambda o, _: o.square().sum().view(1),
}


@pytest.mark.parametrize(("memory", "number"), [("store", 1), ("store", 3), ("replay", 1), ("replay", 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_backward(name: str, memory: Any, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory=replay in parts of 16 and 19 samples, of a loss that only the whole batch has."""
    in_parts(monkeypatch, 16)
    batch = batch_for(MODEL, 35)
    loss = LOSSES[name]
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(number), memory=memory)
    estimator.bind(MODEL, batch.inputs)
    torch.testing.assert_close(
        summed(estimator, MODEL, loss, batch), backward(MODEL, loss, batch), rtol=1e-9, atol=1e-12
    )
    found = estimator.estimate(MODEL, loss, batch, RNG)
    expected = loss(MODEL(batch.inputs), batch.targets).detach()
    torch.testing.assert_close(found.losses.mean(), expected.mean())
    assert found.directional_derivative is not None
    assert len(found.directional_derivative) == 35


@pytest.mark.parametrize("name", LOSSES)
def test_each_samples_derivative_is_that_of_its_own_outputs(name: str) -> None:
    """δ_b = ⟨e_b, tangent of sample b's outputs⟩ sums to the derivative of the mean loss, whatever samples see."""
    batch = batch_for(MODEL, 6)
    perturbation = WeightPerturbation(WeightPerturbationOptions(tangents=40, combine="orthogonal"))
    perturbation.bind(MODEL, batch.inputs)
    found = perturbation.estimate(MODEL, LOSSES[name], batch, RNG)
    assert found.directional_derivative is not None
    assert found.directional_derivative.shape == (6, 40)
    total = sum(p.numel() for p in MODEL.parameters())
    exact = WeightPerturbation(WeightPerturbationOptions(tangents=total, combine="orthogonal"))
    exact.bind(MODEL, batch.inputs)
    gradients = exact.estimate(MODEL, LOSSES[name], batch, RNG).gradients
    torch.testing.assert_close(gradients, backward(MODEL, LOSSES[name], batch), rtol=1e-6, atol=1e-9)


TOKEN_LOSSES: dict[str, Loss] = {
    "each token": lambda o, t: F.cross_entropy(o.mT, t, reduction="none"),
    "all tokens": lambda o, t: F.cross_entropy(o.flatten(0, 1), t.flatten(), reduction="none"),
    "their mean": lambda o, t: F.cross_entropy(o.mT, t),
    "padded": lambda o, t: F.cross_entropy(o.mT, t, ignore_index=2),
    "a sample's mean": lambda o, t: F.cross_entropy(o.mT, t, reduction="none").mean(1),
}


@pytest.mark.parametrize("memory", ["store", "replay"])
@pytest.mark.parametrize("name", TOKEN_LOSSES)
def test_losses_of_tokens(name: str, memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    in_parts(monkeypatch, 16)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(35, 2, 5, dtype=torch.float64, generator=generator)
    batch, loss = Batch(inputs, torch.randint(4, (35, 2), generator=generator)), TOKEN_LOSSES[name]
    estimator = GuessEstimator(Isotropic(), memory=memory)
    estimator.bind(TOKENS, batch.inputs)
    found, expected = summed(estimator, TOKENS, loss, batch), backward(TOKENS, loss, batch)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_targets_of_any_structure() -> None:
    batch = batch_for(MODEL, 35)
    whole = Batch(batch.inputs, {"labels": batch.targets, "weights": torch.arange(35.0).double(), "scale": 2.0})

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        return F.cross_entropy(outputs, targets["labels"], reduction="none") * targets["weights"] * targets["scale"]

    estimator = GuessEstimator(Isotropic(), memory="replay")
    estimator.bind(MODEL, batch.inputs)
    with pytest.MonkeyPatch.context() as patch:
        in_parts(patch, 16)
        found = summed(estimator, MODEL, loss, whole)
    torch.testing.assert_close(found, backward(MODEL, loss, whole), rtol=1e-9, atol=1e-10)


REFUSED: dict[str, tuple[Any, str]] = {
    "detached": (lambda o, _: o.detach().square().sum(1), "the loss has no derivative .* use one that has"),
    "counts": (lambda o, t: (o.argmax(1) != t).double(), "the loss has no derivative"),
    "no tensor": (lambda o, _: o.sum().item(), "the loss gave float; it must give a tensor of numbers"),
    "a tuple": (lambda o, t: (F.cross_entropy(o, t), o), "the loss gave tuple; it must give a tensor"),
    "whole numbers": (lambda o, t: (o.argmax(1) != t).sum(), "the loss gave torch.int64; it must"),
}


@pytest.mark.parametrize(
    "estimator",
    [
        GuessEstimator(Isotropic()),
        GuessEstimator(Isotropic(), memory="replay"),
        WeightPerturbation(WeightPerturbationOptions()),
        WeightPerturbation(WeightPerturbationOptions(tangents=2)),
    ],
)
@pytest.mark.parametrize("name", REFUSED)
def test_refused_is_what_has_no_derivative(name: str, estimator: Any) -> None:
    loss, said = REFUSED[name]
    batch = batch_for(MODEL, 4)
    estimator.bind(MODEL, batch.inputs)
    with pytest.raises(LossRefused, match=said):
        estimator.estimate(MODEL, loss, batch, RNG)


def test_a_model_without_floating_point_outputs_is_refused() -> None:
    outputs = torch.tensor([1, 2])
    with pytest.raises(LossRefused, match="gives no floating-point tensor"):
        output_gradient(lambda o, _: o.sum(), outputs, None, [], 2)


@pytest.mark.parametrize(
    ("layout", "shape", "samples"),
    [
        (PLAIN, (3, 2, 4), 3),
        (Layout(1), (2, 3, 4), 3),
        (NOWHERE, (2, 4), 1),
        (Layout(0, True), (6, 4), 3),
        (Layout(0, True, True), (6, 4), 3),
    ],
)
@pytest.mark.parametrize("rows", [1, 3])
def test_e_along_tangents_of_repeated_samples(layout: Layout, shape: tuple[int, ...], samples: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(shape, dtype=torch.float64, generator=generator)
    tangents = torch.randn(
        rows, samples, *layout.by_sample(outputs, samples).shape[1:], dtype=torch.float64, generator=generator
    )
    if layout.axis is None:
        rows, many, tangents = 1, outputs, tangents[:1]
    else:
        by_sample = layout.by_sample(outputs, samples)
        many = layout.natural(by_sample.repeat(rows, *[1] * (by_sample.dim() - 1)))

    def loss(values: Tensor, _: None) -> Tensor:
        return values.sin().square().sum()

    found = output_gradient(loss, many, None, [layout], samples, rows)
    leaf = outputs.clone().requires_grad_()
    (e,) = torch.autograd.grad(loss(leaf, None), leaf)
    torch.testing.assert_close(found.parts[0], layout.by_sample(e, samples))
    natural = layout.natural(tangents.flatten(0, 1))
    expected = (tangents * layout.by_sample(e, samples)).flatten(2).sum(2).T
    torch.testing.assert_close(found.along([natural], rows), expected)
    assert not found.along([None], rows).any()
