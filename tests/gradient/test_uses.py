"""Uses: which operations are seen, what they are called, what counts as a constant."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exact import backward, smooth, summed
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from zoo import Net, Pair, random, weight

from fgcli import ForwardGradient
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.look import look
from fgcli.gradient.nested import batch_size, first_tensor, leaves, mapped, rebuilt
from fgcli.gradient.passes import PlainPass
from fgcli.gradient.plain import math_attention
from fgcli.gradient.randomness import Streams
from fgcli.gradient.sites import Network
from fgcli.gradient.uses import call, run
from fgcli.methods.options import WeightPerturbationOptions
from fgcli.methods.weight_perturbation import WeightPerturbation

X = torch.tensor([[1.0, 2.0, 0.0, -1.0], [0.5, -1.0, 2.0, 1.0], [3.0, 1.0, -1.0, 0.0]], dtype=torch.float64)


class Signed(torch.autograd.Function):
    """Has a formula of its own. torch turns gradients off within its forward."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return x.sign() * x

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def jvp(ctx: object, *tangents: Tensor) -> Tensor:
        return 3 * tangents[0]

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> Tensor:
        return 3 * grad_outputs[0]


class Gated(nn.Module):
    """Computes within no_grad, or inference mode, what the name of `use` says."""

    def __init__(self, use: str) -> None:
        super().__init__()
        self.use = use
        self.hidden, self.gate, self.output = nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.table = nn.Embedding(3, 3, max_norm=0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.hidden(x).sin()
        match self.use:
            case "gate" | "detached outside":
                with torch.no_grad():
                    g = torch.sigmoid(self.gate(h))
                h = h * (g if self.use == "gate" else g.detach())
            case "detached":
                h = h * torch.sigmoid(self.gate(h)).detach()
            case "weight":
                with torch.no_grad():
                    scale = self.table.weight.norm()
                h = h * scale
            case "detached weight":
                h = h * self.gate.weight.detach().norm() + F.linear(h, self.gate.weight.detach())
            case "data of a weight":
                h = h * self.gate.weight.data[0]
            case "in place":
                h = h + 0
                with torch.no_grad():
                    h.mul_(2)
            case "written into another":
                kept = torch.zeros_like(h)
                with torch.no_grad():
                    kept[:, 1:] = h[:, 1:]
                h = h + kept
            case "straight through":
                h = h + (h.round() - h).detach()
            case "a weight's rounding":
                w = self.gate.weight
                h = F.linear(h, w + (w.round() - w).detach())
            case "grad within no_grad":
                with torch.no_grad(), torch.enable_grad():
                    g = self.gate(h)
                h = h * g
            case "a function of torch's":
                h = Signed.apply(h + self.table(torch.zeros(len(h), dtype=torch.long)))
            case _:
                raise ValueError(self.use)
        return self.output(h)


USES = [
    "gate", "detached outside", "detached", "weight", "detached weight", "data of a weight", "in place",
    "written into another", "straight through", "a weight's rounding", "grad within no_grad", "a function of torch's",
]  # fmt: skip


@pytest.mark.parametrize("use", USES)
def test_a_constant_for_backward_is_one_for_tangents(use: str) -> None:
    torch.manual_seed(0)
    model, batch = Gated(use).double(), Batch(X, None)
    model(X)  # max_norm is applied
    expected = backward(model, smooth, batch)
    estimator = GuessEstimator(Isotropic())
    coverage = estimator.bind(model, X)
    found = summed(estimator, model, smooth, batch)
    unused = {name: torch.zeros_like(expected[name]) for name in coverage.unused}
    torch.testing.assert_close(found | unused, {name: expected[name] for name in found | unused}, rtol=1e-9, atol=1e-11)
    assert {*found, *unused} == {*expected}
    size = sum(g.numel() for g in expected.values())
    perturbation = WeightPerturbation(WeightPerturbationOptions(tangents=size, combine="orthogonal"))
    perturbation.bind(model, X)
    found = perturbation.estimate(model, smooth, batch, Streams(3).at(7)).gradients
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


class Whole(nn.Sequential):
    @torch.no_grad()
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input)


def test_a_frozen_part_within_no_grad() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Whole(nn.Linear(4, 3), nn.Tanh()).requires_grad_(False), nn.Linear(3, 2)).double()
    estimator = GuessEstimator(Isotropic())
    assert estimator.bind(model, X).sites == ("1",)
    assert list(look(model, X).sites) == ["1"]
    batch = Batch(X, None)
    torch.testing.assert_close(summed(estimator, model, smooth, batch), backward(model, smooth, batch))


def names(model: nn.Module, x: Any = X) -> list[str]:
    return list(look(model.double(), x).sites)


def test_sites_are_named_after_the_module_that_owns_the_weight() -> None:
    assert names(nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Tanh(), nn.Linear(3, 2)))) == ["0", "1.1"]
    assert names(nn.Linear(4, 3)) == [""]
    assert names(Net(lambda m, x: x @ m.w, w=weight(4, 3))) == ["w"]
    assert names(Net(lambda m, x: m.a(m.a(m.a(x))), a=nn.Linear(4, 4))) == ["a", "a#2", "a#3"]
    inner = Net(lambda m, x: x @ m.first @ m.second, first=weight(4, 3), second=weight(3, 2))
    assert names(Net(lambda m, x: m.inner(x), inner=inner)) == ["inner.first", "inner.second"]


class Subclass(nn.Linear):
    pass


def test_a_subclass_is_a_layer_as_any() -> None:
    assert names(nn.Sequential(Subclass(4, 3), nn.Tanh(), Subclass(3, 2))) == ["0", "2"]


def test_a_plain_pass_shows_sites_in_the_order_of_the_forward_and_changes_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)).double()
    network: Network = look(model, X)
    shown: dict[str, Tensor] = {}
    with torch.no_grad():
        outputs = run(model, X, PlainPass(network, lambda site, _, s: shown.update({site.name: s}), 3))
    expected = model[0](X)
    assert list(shown) == ["0", "2"]
    torch.testing.assert_close(shown["0"], expected.detach().clone() if not expected.is_leaf else expected)
    torch.testing.assert_close(outputs, model(X).detach())
    assert not outputs.requires_grad


def test_structures() -> None:
    values = {"a": [torch.ones(2), None, 3], "b": Pair(torch.zeros(3, 1), torch.arange(2)), "c": torch.Size([1])}
    doubled = mapped(lambda value: 2 * value if isinstance(value, Tensor) else value, values)
    assert torch.equal(doubled["a"][0], torch.full((2,), 2.0))
    assert isinstance(doubled["b"], Pair)
    assert doubled["c"] is values["c"]
    assert [tuple(one.shape) for one in leaves(values)] == [(2,), (3, 1)]
    made = rebuilt(values, [torch.ones(1), torch.ones(4)])
    assert [tuple(one.shape) for one in leaves(made)] == [(1,), (4,)]
    assert torch.equal(made["b"].hidden, torch.arange(2))
    assert first_tensor((torch.tensor(1.0), torch.ones(4, 2))).shape == (4, 2)
    assert batch_size({"n": 3, "x": torch.ones(5)}) == 5
    assert call(lambda x, y: x - y, (3, 1)) == 2  # type: ignore[arg-type]
    assert call(lambda x, y: x - y, {"y": 3, "x": 1}) == -2  # type: ignore[arg-type]


def test_attention_is_left_as_it_was() -> None:
    before = torch.backends.mha.get_fastpath_enabled()
    within: list[bool] = []

    def failing() -> None:
        with math_attention():
            within.append(torch.backends.mha.get_fastpath_enabled())
            raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        failing()
    assert within == [False]
    assert torch.backends.mha.get_fastpath_enabled() == before
    functions: Any = F
    asked = functions.has_torch_function
    look(nn.MultiheadAttention(2, 1, batch_first=True), (random(2, 3, 2),) * 3)
    assert functions.has_torch_function is asked


def test_what_the_model_does_in_place_after_a_use_is_right_though_backward_would_refuse_it() -> None:
    """The input of a layer, changed after the layer has read it: held to the same model with a copy."""

    def forward(copied: bool) -> Any:
        def of(m: Any, x: Tensor) -> Tensor:
            h = torch.tanh(m.a(x))
            h = h + m.b(h) if copied else h.add_(m.b(h))
            h = h * 2 if copied else h.mul_(2)
            return m.b(h)

        return of

    models = []
    for copied in (False, True):
        torch.manual_seed(0)
        models.append(Net(forward(copied), a=nn.Linear(4, 3), b=nn.Linear(3, 3)).double())
    batch = Batch(X, None)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        backward(models[0], smooth, batch)
    expected = backward(models[1], smooth, batch)
    for number in (1, 3):
        for memory in ("store", "replay"):
            from fgcli.gradient.tangents import Tangents

            estimator = GuessEstimator(Isotropic(), tangents=Tangents(number), memory=memory)
            estimator.bind(models[0], X)
            torch.testing.assert_close(summed(estimator, models[0], smooth, batch), expected, rtol=1e-9, atol=1e-11)
    assert look(models[0], X).sites["b"].copied


class Block(nn.Module):
    """Layers that a checkpoint would run again."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        h = self.block(h) if self.reentrant is None else checkpoint(self.block, h, use_reentrant=self.reentrant)
        return self.last(h)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize(("method", "options"), [("wt", {}), ("wperp", {"k": 1}), ("wt", {"feedback": "local"})])
def test_layers_in_a_checkpoint_are_trained_as_without(method: str, options: dict[str, Any], reentrant: bool) -> None:
    found = []
    plain = Block(None)
    for model in (plain, Block(reentrant)):
        model.load_state_dict(plain.state_dict())
        gradient = ForwardGradient(model, method, **options)
        for _ in range(2):  # feedback predicts nothing at first
            gradient.step(X.float(), torch.tensor([0, 1, 1]), F.cross_entropy)
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*found, strict=True))
