"""Models that give their own loss: δ of every sample, from the loss's derivative at the last sites."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact import RNG, backward, summed
from torch import Tensor, nn
from zoo import Net

from fgcli import ForwardGradient, LossRefused, ModelRefused, UsageError
from fgcli.diagnostics.gradients import site_gradients
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.own_loss import OwnLoss, own_loss
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.uses import call
from fgcli.methods.options import TransposeOptions, WeightPerturbationOptions
from fgcli.methods.transpose import Transpose
from fgcli.methods.weight_perturbation import WeightPerturbation


@dataclass
class Given:
    loss: Tensor
    logits: Tensor


def language_model(m: Any, ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Tied, shifted by one token, some ignored, as transformers' causal models are."""
    h = m.embed(ids)
    logits = F.linear(h + m.up(m.down(h).tanh()), m.embed.weight)
    return {"loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), "logits": logits}


def tokens(size: int) -> dict[str, Tensor]:
    ids = torch.randint(5, (size, 3))
    return {"ids": ids, "labels": ids.masked_fill(torch.arange(3 * size).view(size, 3) % 4 == 1, -100)}


def pairs(m: Any, left: Tensor, right: Tensor) -> Given:
    """Contrastive, with a learned temperature: samples meet in the loss alone, behind the last sites."""
    one, other = m.a(left).tanh(), m.b(right)
    logits = F.normalize(one, dim=1) @ F.normalize(other, dim=1).T * m.scale.exp()
    return Given(F.cross_entropy(logits, torch.arange(len(left))), logits)


def stream(m: Any, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The first site reaches the loss both past the second and through it; a sum, which grows with the batch."""
    h = m.a(x)
    out = h + m.b(h.sin())
    return (out - y).square().sum(), out


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Any]]] = {
    "language model": (
        lambda: Net(language_model, embed=nn.Embedding(5, 3), down=nn.Linear(3, 2), up=nn.Linear(2, 3)), tokens
    ),
    "contrastive": (
        lambda: Net(pairs, a=nn.Linear(2, 3), b=nn.Linear(2, 3), scale=nn.Parameter(torch.tensor(0.3))),
        lambda size: {"left": torch.randn(size, 2).double(), "right": torch.randn(size, 2).double()},
    ),
    "residual stream, summed": (
        lambda: Net(stream, a=nn.Linear(2, 2), b=nn.Linear(2, 2)),
        lambda size: (torch.randn(size, 2).double(), torch.randn(size, 2).double()),
    ),
}  # fmt: skip


def made(name: str, size: int = 4) -> tuple[OwnLoss, Batch]:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    return OwnLoss(make().double()), Batch(inputs(size), None)


@pytest.mark.parametrize("memory", ["store", "replay"])
@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_backward(name: str, number: int, memory: Any) -> None:
    model, batch = made(name)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(number), memory=memory)
    estimator.bind(model, batch.inputs)
    assert not estimator.bound.mixes
    expected = backward(model, own_loss, batch)
    torch.testing.assert_close(summed(estimator, model, own_loss, batch), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_every_sample_has_its_own_derivative(name: str) -> None:
    model, batch = made(name)
    estimator = GuessEstimator(Transpose(TransposeOptions()), uncovered="freeze")
    estimator.bind(model, batch.inputs)
    step, found = estimator.dual_pass(model, own_loss, batch, RNG)
    g = site_gradients(model, estimator.bound, own_loss, batch)
    parts = [(g[name] * y[0].first()).flatten(1).sum(1) for name, y in step.draws.items()]
    torch.testing.assert_close(found.delta[:, 0], torch.stack(parts).sum(0))
    torch.testing.assert_close(step.losses, own_loss(call(model, batch.inputs)).detach())


@pytest.mark.parametrize("tangents", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_weight_perturbation_follows_it(name: str, tangents: int) -> None:
    model, batch = made(name)
    estimator = WeightPerturbation(WeightPerturbationOptions(tangents=tangents))
    estimator.bind(model, batch.inputs)
    estimate = estimator.estimate(model, own_loss, batch, RNG)
    expected = backward(model, own_loss, batch)
    inner = sum((one * expected[key]).sum() for key, one in estimate.gradients.items())
    assert estimate.directional_derivative is not None
    torch.testing.assert_close(inner, estimate.directional_derivative.square().mean())


def test_feedback_is_exact_in_a_shallow_network() -> None:
    model, batch = made("residual stream, summed")
    expected = backward(model, own_loss, batch)
    own = model.__dict__["model"]
    gradient = ForwardGradient(own, "activation-perturbation", feedback="local", feedback_learning="none")
    gradient.step(batch.inputs)
    found = {name: p.grad for name, p in own.named_parameters()}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("learning", ["tangents", "bootstrap"])
@pytest.mark.parametrize("memory", ["store", "replay"])
def test_feedback_in_a_chain_is_that_of_the_same_loss_as_a_function(memory: str, learning: str) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)
    )
    plain = Net(lambda m, x: m.layers(x), layers=layers)
    own = Net(lambda m, x, y: (F.cross_entropy(m.layers(x), y),), layers=layers)
    x, y = torch.randn(5, 2), torch.randint(2, (5,))
    options: Any = {"memory": memory, "feedback": "local", "feedback_learning": learning}
    alone, within = ForwardGradient(plain, "wt", **options), ForwardGradient(own, "wt", **options)
    for _ in range(3):
        alone.step(x, y, F.cross_entropy)
        expected = [p.grad for p in layers.parameters()]
        layers.zero_grad()
        within.step((x, y))
        torch.testing.assert_close([p.grad for p in layers.parameters()], expected)
        layers.zero_grad()


def test_feedback_refuses_a_parameter_behind_the_last_layers() -> None:
    model, batch = made("contrastive")
    gradient = ForwardGradient(model.__dict__["model"], "activation-perturbation", feedback="local")
    with pytest.raises(
        ModelRefused, match=r"parameter .scale. lies between the last layers and the loss .*: give a loss_fn"
    ):
        gradient.step(batch.inputs)


@pytest.mark.parametrize("method", ["wperp", "weight-perturbation", "backprop", "backprop-checkpoint"])
def test_a_step_without_a_loss_function_takes_the_models_own(method: str) -> None:
    model, batch = made("language model")
    own = model.__dict__["model"]
    loss = ForwardGradient(own, method).step(batch.inputs)
    torch.testing.assert_close(loss, own(**batch.inputs)["loss"].detach())
    expected = backward(model, own_loss, batch)
    found = {name: p.grad for name, p in own.named_parameters()}
    assert found.keys() == expected.keys()
    if method.startswith("backprop"):
        torch.testing.assert_close(found, expected)


def test_what_gives_no_loss_is_refused() -> None:
    model, x = nn.Linear(2, 2), torch.randn(3, 2)
    with pytest.raises(LossRefused, match=r"no loss_fn is given, and the model gives a tensor \[\d, 2\]; it must give"):
        ForwardGradient(model, "backprop").step(x)
    named = Net(lambda m, x: {"logits": m.a(x)}, a=nn.Linear(2, 2))
    with pytest.raises(LossRefused, match=r"the model gives dict\(logits\)"):
        ForwardGradient(named, "wt").step(x)
    with pytest.raises(UsageError, match="y is given, but no loss_fn"):
        ForwardGradient(model, "wt").step(x, x)
