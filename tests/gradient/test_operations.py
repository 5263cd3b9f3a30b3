"""Closed forms of operations, and lookups that follow `backward`, held to the general vjp and to autograd."""

from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from exact import backward, smooth, summed
from torch import Tensor, nn
from zoo import Net, random, weight

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.operations import bilinear_gradients, is_bilinear
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.uses import Source, Use
from fgcli.methods.options import WeightPerturbationOptions
from fgcli.methods.weight_perturbation import WeightPerturbation

RNG = Streams(3).at(7)
torch.manual_seed(0)


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CALLS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "linear": (F.linear, (double(3, 6), double(4, 6, seed=1), double(4, seed=2))),
    "linear on tokens": (F.linear, (double(3, 2, 5, 6), double(4, 6, seed=1), None)),
    "linear without batch": (F.linear, (double(6), double(4, 6, seed=1), double(4, seed=2))),
    "conv1d": (F.conv1d, (double(3, 4, 9), double(2, 2, 3, seed=1), double(2, seed=2), 2, 1, 2, 2)),
    "conv1d, same, even": (F.conv1d, (double(3, 2, 9), double(2, 2, 4, seed=1), None, 1, "same")),
    "conv1d, valid": (torch.conv1d, (double(3, 2, 9), double(2, 2, 4, seed=1), double(2, seed=2), 1, "valid")),
    "conv2d": (F.conv2d, (double(3, 2, 6, 6), double(4, 2, 3, 3, seed=1), double(4, seed=2))),
    "conv2d, uneven": (F.conv2d, (double(3, 2, 6, 6), double(4, 2, 2, 3, seed=1), None, (1, 2), (1, 0), (2, 1))),
    "conv2d, groups": (F.conv2d, (double(3, 4, 6, 6), double(4, 2, 3, 3, seed=1), double(4, seed=2), 2, "valid", 1, 2)),
    "conv2d, same, dilated": (F.conv2d, (double(3, 2, 6, 6), double(4, 2, 3, 2, seed=1), None, 1, "same", 2)),
    "conv2d without batch": (F.conv2d, (double(2, 6, 6), double(4, 2, 3, 3, seed=1), double(4, seed=2), 1, 1)),
    "conv3d": (F.conv3d, (double(2, 2, 3, 4, 3), double(2, 2, 2, 3, 2, seed=1), double(2, seed=2), (1, 2, 1), 1)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CALLS)
def test_gradients_by_hand_are_the_general_vjp(name: str) -> None:
    """With the true gradient in place of a guess, Eq. 3 is the chain rule itself."""
    func, args = CALLS[name]
    x, w, b = (one if one is None else one.clone().requires_grad_() for one in args[:3])
    assert w is not None
    s = func(x, w, b, *args[3:])
    g = double(*s.shape, seed=3)
    wanted = [w] if b is None else [w, b]
    assert is_bilinear(func, args, {})
    of_weight, of_bias = bilinear_gradients(func, args, args[0], g)
    found = [of_weight()] if b is None else [of_weight(), of_bias()]
    torch.testing.assert_close(found, list(torch.autograd.grad(s, wanted, g)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CALLS)
def test_tangents_by_hand_are_pytorchs_own(name: str) -> None:
    """The route around backends without a forward-mode formula (MPS) gives what the formula gives."""
    func, args = CALLS[name]
    parameters = [nn.Parameter(one) for one in args[1:3] if one is not None]
    sources = {id(p): Source((f"p{k}",), p) for k, p in enumerate(parameters)}
    bias = parameters[1] if len(parameters) > 1 else None
    with torch.no_grad(), forward_ad.dual_level():
        x = forward_ad.make_dual(args[0], double(*args[0].shape, seed=4))
        use = Use("use", func, (x, parameters[0], bias, *args[3:]), {}, sources)
        assert use.bilinear
        s, (tangent,) = use.pushed()
        expected = forward_ad.unpack_dual(func(x, parameters[0], bias, *args[3:]))
    assert tangent is not None
    torch.testing.assert_close(s, expected.primal)
    torch.testing.assert_close(tangent, expected.tangent)


def test_what_is_called_by_keyword_or_with_the_weight_first_is_not_taken_by_hand() -> None:
    x, w = double(3, 4), double(4, 4)
    assert not is_bilinear(F.linear, (x,), {"weight": w})
    assert not is_bilinear(F.linear, (x, w), {"bias": None})
    assert not is_bilinear(torch.matmul, (x, w), {})
    p = nn.Parameter(w)
    assert not Use("use", F.linear, (p, x), {}, {id(p): Source(("p",), p)}).bilinear


def test_data_that_is_the_weight_of_a_linear_layer() -> None:
    """F.linear(parameter, data): the parameter is on the other side."""
    model = Net(lambda m, x: F.linear(m.w, x.tanh()).T, w=weight(2, 3)).double()
    batch = Batch(double(4, 3), None)
    estimator = GuessEstimator(Isotropic())
    estimator.bind(model, batch.inputs)
    torch.testing.assert_close(summed(estimator, model, smooth, batch), backward(model, smooth, batch))


class Lookup(nn.Module):
    """A table that is looked up, and perhaps the weight of the head as well, by F.linear or a tied Linear."""

    def __init__(self, head: str, **options: Any) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(4, 3, **options), nn.Linear(3, 3)
        self.how = head
        self.head = nn.Linear(3, 4, bias=False)
        if head == "tied":
            self.head.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.mix(self.table(tokens).mean(1)).tanh()
        return F.linear(h, self.table.weight) if self.how == "functional" else self.head(h)


RULES: dict[str, dict[str, Any]] = {
    "none": {},
    "padding": {"padding_idx": 0},
    "padding from the end": {"padding_idx": -1},
    "frequency": {"scale_grad_by_freq": True},
    "sparse": {"sparse": True},
    "norm": {"max_norm": 0.5},
    "norm and padding": {"max_norm": 0.5, "norm_type": 1.0, "padding_idx": 1},
    "all": {"max_norm": 0.5, "padding_idx": 1, "scale_grad_by_freq": True},
}


@pytest.mark.parametrize("tangents", [1, 5])
@pytest.mark.parametrize("head", ["own", "tied", "functional"])
@pytest.mark.parametrize("rule", RULES)
def test_embeddings_have_backwards_own_rules_in_activation_perturbation(rule: str, head: str, tangents: int) -> None:
    model, batch = lookup(rule, head)
    expected = backward(model, smooth, batch)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(tangents))
    coverage = estimator.bind(model, batch.inputs)
    found = summed(estimator, model, smooth, batch)
    assert not any(g.is_sparse for g in found.values())
    torch.testing.assert_close(
        found, {n: g for n, g in expected.items() if n not in coverage.unused}, rtol=1e-9, atol=1e-11
    )


class Windows(nn.Module):
    """Looks rows up in one table, and none in another."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.none, self.head = nn.Embedding(4, 3), nn.Embedding(4, 3), nn.Linear(3, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head((self.rows(tokens).mean(1) + self.none(tokens[:, :0]).sum(1)).tanh())


def test_a_table_of_which_no_row_is_looked_up_has_a_gradient_of_0() -> None:
    torch.manual_seed(0)
    model = Windows().double()
    batch = Batch(torch.tensor([[0, 1], [1, 3], [2, 2]]), torch.tensor([0, 1, 3]))
    estimator = GuessEstimator(Isotropic())
    estimator.bind(model, batch.inputs)
    found = summed(estimator, model, smooth, batch)
    assert found["none.weight"].count_nonzero() == 0
    torch.testing.assert_close(found, backward(model, smooth, batch), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("head", ["own", "tied", "functional"])
@pytest.mark.parametrize("rule", RULES)
def test_embeddings_have_backwards_own_rules_in_weight_perturbation(rule: str, head: str) -> None:
    model, batch = lookup(rule, head)
    expected = backward(model, smooth, batch)
    single = WeightPerturbation(WeightPerturbationOptions())
    single.bind(model, batch.inputs)
    delta = single.estimate(model, smooth, batch, RNG).directional_derivative
    along = [(RNG.normal("weight", n, tuple(g.shape), g) * g).sum() for n, g in expected.items()]
    assert delta is not None
    torch.testing.assert_close(delta.sum(), torch.stack(along).sum())
    size = sum(p.numel() for p in model.parameters())
    several = WeightPerturbation(WeightPerturbationOptions(tangents=size, combine="orthogonal"))
    several.bind(model, batch.inputs)
    found = several.estimate(model, smooth, batch, RNG).gradients
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def lookup(rule: str, head: str) -> tuple[nn.Module, Batch]:
    torch.manual_seed(0)
    model = Lookup(head, **RULES[rule]).double()
    return model, Batch(torch.tensor([[0, 1, 1], [0, 2, 3], [3, 3, 1]]), None)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 0}, {"max_norm": 0.5}], ids=str)
def test_bags(mode: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.EmbeddingBag(4, 3, mode=mode, **options), nn.Tanh(), nn.Linear(3, 2)).double()
    batch = Batch(torch.tensor([[0, 1, 1], [0, 2, 3], [3, 3, 1]]), None)
    expected = backward(model, smooth, batch)
    estimator = GuessEstimator(Isotropic())
    estimator.bind(model, batch.inputs)
    torch.testing.assert_close(summed(estimator, model, smooth, batch), expected, rtol=1e-9, atol=1e-11)
    with pytest.raises(
        ModelRefused, match=r"the model's input is followed by embedding_bag, which has no forward-mode"
    ):
        WeightPerturbation(WeightPerturbationOptions()).bind(model, batch.inputs)


def test_a_bag_that_scales_by_frequency_is_refused_by_weight_perturbation() -> None:
    model = nn.Sequential(nn.EmbeddingBag(4, 3, mode="sum", scale_grad_by_freq=True), nn.Linear(3, 2))
    with pytest.raises(ModelRefused, match=r"an EmbeddingBag has scale_grad_by_freq, .* leave it out"):
        WeightPerturbation(WeightPerturbationOptions()).bind(model, torch.zeros(2, 3, dtype=torch.long))


def test_einsum_with_its_operands_as_a_list() -> None:
    torch.manual_seed(0)
    model = Net(lambda m, x: torch.einsum("bi,ij->bj", [x.tanh(), m.w]), w=nn.Parameter(random(3, 2))).double()
    batch = Batch(double(4, 3), None)
    estimator = GuessEstimator(Isotropic())
    assert estimator.bind(model, batch.inputs).sites == ("w",)
    torch.testing.assert_close(summed(estimator, model, smooth, batch), backward(model, smooth, batch))
