"""Feedback of the literature, each held to its definition in float64."""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.extend.options import EngineOptions
from fgcli.extend.registry import load_registry
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import OptionRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.feedback import Feedback, FeedbackRule, Place
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.make import make_estimator

Weight = Callable[[str, Tensor], Tensor]


class Net(nn.Module):
    """A convolution, normalisation, a residual stream; `back` is what goes back in place of the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3, stride=2, padding=1, dtype=torch.double)
        self.enter = nn.Linear(12, 6, dtype=torch.double)
        self.norm = nn.LayerNorm(6, dtype=torch.double)
        self.block, self.leave = nn.Linear(6, 6, dtype=torch.double), nn.Linear(6, 4, dtype=torch.double)
        self.back: Weight | None = None

    def forward(self, x: Tensor) -> Tensor:
        h = self._used("conv", x.unsqueeze(1), _strided).tanh().flatten(1)
        h = self.norm(self._used("enter", h, F.linear))
        h = h + self._used("block", h, F.linear).sigmoid()
        return self._used("leave", h, F.linear)

    def _used(self, name: str, x: Tensor, use: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        weight, bias = self.get_parameter(f"{name}.weight"), self.get_parameter(f"{name}.bias")
        if self.back is None:
            return use(x, weight, bias)
        # The value, and the gradients of the weight and the bias, are those of W; that of x passes B.
        by_matrix = use(x, self.back(name, weight.detach()), bias.detach())
        return use(x.detach(), weight, bias) + by_matrix - by_matrix.detach()


def _strided(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv1d(x, weight, bias, 2, 1)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 8, generator=generator, dtype=torch.double)
    return Batch(inputs, torch.randint(4, (9,), generator=generator))


def net() -> Net:
    torch.manual_seed(1)
    return Net()


def mlp() -> nn.Sequential:
    torch.manual_seed(2)
    layers: dict[str, nn.Module] = {"one": nn.Linear(8, 7), "act1": nn.Tanh(), "two": nn.Linear(7, 6)}
    layers |= {"act2": nn.Tanh(), "out": nn.Linear(6, 4)}
    return nn.Sequential(OrderedDict(layers)).double()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    loss = F.cross_entropy(model(batch().inputs), batch().targets)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def estimator(model: nn.Module, feedback: str, **options: Any) -> GuessEstimator:
    made = EngineOptions(feedback=feedback, **options)
    one = make_estimator(Isotropic(), made, load_registry())
    one.bind(model, batch().inputs)
    return one


def estimated(one: GuessEstimator, model: nn.Module, step: int = 0) -> dict[str, Tensor]:
    return one.estimate(model, F.cross_entropy, batch(), Streams(0).at(step)).gradients


class Transposed(FeedbackRule):
    """The weights themselves."""

    layers = None


@pytest.mark.parametrize("make", [net, mlp])
def test_with_the_weights_themselves_it_is_the_gradient(make: Callable[[], nn.Module]) -> None:
    model = make()
    one = GuessEstimator(Isotropic(), feedback=Feedback(Transposed()))
    one.bind(model, batch().inputs)
    torch.testing.assert_close(estimated(one, model), gradients(model), check_stride=False)


def _aligned(name: str, weight: Tensor) -> Tensor:
    place = Place(name, 0, 0, Streams(0).at(5))
    return place.normal(tuple(weight.shape), weight) / math.sqrt(3 * weight[0].numel())


def _signs(name: str, weight: Tensor) -> Tensor:
    return weight.sign() * weight.norm() / math.sqrt(weight.numel())


@pytest.mark.parametrize("memory", ["store", "replay"])
@pytest.mark.parametrize(("feedback", "back"), [("feedback-alignment", _aligned), ("sign-symmetry", _signs)])
def test_what_goes_back_passes_the_matrix_in_place_of_each_weight(feedback: str, back: Weight, memory: str) -> None:
    model, reference = net(), net()
    reference.back = back
    expected = gradients(reference)
    for step in (0, 3):  # the matrices are fixed
        found = estimated(estimator(model, feedback, memory=memory), model, step)
        torch.testing.assert_close(found, expected, check_stride=False)
    assert not torch.allclose(expected["conv.weight"], gradients(net())["conv.weight"], rtol=0.1)


def test_direct_feedback_alignment_sends_e_to_every_layer() -> None:
    model = mlp()
    one = estimator(model, "direct-feedback-alignment")
    found = estimated(one, model)
    assert one.feedback is not None
    rule: Any = one.feedback.rule
    _check_direct(model, found, rule.matrices)


def _check_direct(model: nn.Sequential, found: Mapping[str, Tensor], matrices: Mapping[str, Tensor]) -> None:
    """δ_i = φ'(s_i) ⊙ B_{i+1} e in an MLP of tanh, by hand."""
    x, targets = batch().inputs, batch().targets
    first, second = model[:2](x), model[:4](x)
    logits = model(x).requires_grad_()
    (e,) = torch.autograd.grad(F.cross_entropy(logits, targets), logits)
    assert matrices.keys() == {"two", "out"}
    deltas = {
        "one": (e @ matrices["two"].T) * (1 - first**2),
        "two": (e @ matrices["out"].T) * (1 - second**2),
        "out": e,
    }
    for name, data in (("one", x), ("two", first), ("out", second)):
        torch.testing.assert_close(found[f"{name}.weight"], (deltas[name].T @ data).detach())
        torch.testing.assert_close(found[f"{name}.bias"], deltas[name].sum(0))


def test_fdfa_is_a_running_mean_of_forward_mode_estimates() -> None:
    model, rate = mlp(), 0.25
    one = estimator(model, "fdfa", feedback_rate=rate)
    expected = {"two": torch.zeros(7, 4).double(), "out": torch.zeros(6, 4).double()}
    for step in range(3):
        _check_direct(model, estimated(one, model, step), expected | {})  # B of before this step's noise
        rng, x = Streams(0).at(step), batch().inputs
        first, second = model[:2](x), model[:4](x)
        inputs = (("two", first), ("out", second))
        y = {name: rng.signs("feedback", name, tuple(h.shape), h.device).values(h.dtype) for name, h in inputs}
        out, two = model.get_parameter("out.weight"), model.get_parameter("two.weight")
        moved = ((y["two"] @ two.T) * (1 - second**2) + y["out"]) @ out.T  # both at once, as the authors have it
        for name in expected:
            expected[name] = ((1 - rate) * expected[name] + rate * (y[name].T @ moved) / len(x)).detach()
    _check_direct(model, estimated(one, model, 3), expected)


def test_fdfa_goes_on_from_its_state_to_the_bit() -> None:
    model = mlp()
    whole, resumed = estimator(model, "fdfa"), estimator(model, "fdfa")
    for step in range(2):
        estimated(whole, model, step)
    resumed.load_state(whole.state())
    for step in (2, 3):
        expected, found = estimated(whole, model, step), estimated(resumed, model, step)
        assert all(torch.equal(found[name], one) for name, one in expected.items())


@pytest.mark.parametrize("feedback", ["feedback-alignment", "sign-symmetry", "direct-feedback-alignment", "fdfa"])
def test_a_correction_of_one_is_exact_with_all_directions(feedback: str) -> None:
    model = mlp()
    one = estimator(model, feedback, correction=1.0, tangents=13, combine="orthogonal")
    assert one.tangents == Tangents(13, "orthogonal")
    torch.testing.assert_close(estimated(one, model), gradients(model), rtol=1e-7, atol=1e-9, check_stride=False)


@pytest.mark.parametrize("feedback", ["feedback-alignment", "sign-symmetry"])
def test_a_layer_that_is_no_product_with_its_weight_is_refused_by_name(feedback: str) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.cell, self.leave = nn.Linear(8, 5), nn.GRU(5, 5), nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.cell(self.enter(x).unsqueeze(0))[0][0])

    model = Recurrent().double()
    with pytest.raises(OptionRefused, match=r"site 'cell' is no linear layer or convolution: use feedback direct"):
        estimated(estimator(model, feedback), model)


@pytest.mark.parametrize(
    ("feedback", "option", "value"),
    [
        ("fdfa", "feedback_learning", "bootstrap"),
        ("feedback-alignment", "feedback_rate", 0.5),
        ("sign-symmetry", "feedback_every", 4),
        ("direct-feedback-alignment", "feedback_every", 4),
    ],
)
def test_options_of_learning_that_a_rule_does_nothing_with_are_refused(
    feedback: str, option: str, value: object
) -> None:
    with pytest.raises(OptionRefused, match=f"{option} is {value}; feedback {feedback} does nothing with it"):
        estimator(mlp(), feedback, **{option: value})


@pytest.mark.parametrize(("feedback", "passes"), [("direct", "0 of them"), ("feedback-alignment", "all layers")])
def test_layers_that_a_rule_does_not_pass_are_refused(feedback: str, passes: str) -> None:
    with pytest.raises(OptionRefused, match=f"feedback_layers is 2; feedback {feedback} passes {passes}: leave it out"):
        estimator(mlp(), feedback, feedback_layers=2)
