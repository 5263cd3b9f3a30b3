"""What the default holds, beside backpropagation, and that it is seen beforehand."""

from functools import cache, partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import cross_entropy
from parts import in_parts, measured_anew
from torch import Tensor, nn

from fgcli.api import ForwardGradient
from fgcli.bench.measure import peak_of
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.held import growth
from fgcli.gradient.randomness import Streams
from fgcli.methods.options import TransposeOptions
from fgcli.methods.transpose import Transpose

CPU = torch.device("cpu")
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "activation perturbation": ("activation-perturbation", {}),
    "four tangents": ("activation-perturbation", {"tangents": 4}),
    "wt": ("wt", {}),
    "wperp": ("wperp", {"k": 4}),
    "feedback": ("activation-perturbation", {"feedback": "local"}),
}


class Block(nn.Module):
    """Attention with dropout in it, and a residual stream, as transformers have them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out, self.up, self.down = nn.Linear(width, width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (one.unflatten(2, (2, -1)).transpose(1, 2) for one in self.qkv(self.norm(x)).chunk(3, 2))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        x = x + F.dropout(self.out(mixed.transpose(1, 2).flatten(2)), 0.1, self.training)
        return x + self.down(F.gelu(self.up(x)))


class Tokens(nn.Module):
    """Embeddings of tokens and of positions, which have no samples, and two blocks."""

    def __init__(self, width: int = 16, tokens: int = 12, words: int = 20) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width, padding_idx=0), nn.Embedding(tokens, width)
        self.blocks, self.head = nn.Sequential(Block(width), Block(width)), nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.dropout(self.words(ids) + self.places(torch.arange(ids.shape[1])), 0.1, self.training)
        return self.head(self.blocks(x).mean(1))


def tokens(samples: int = 16, words: int = 20) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return Tokens(words=words).double(), torch.randint(20, (samples, 12)), torch.arange(samples) % 3


def stepped(model: nn.Module, gradient: ForwardGradient, ids: Tensor, targets: Tensor) -> None:
    model.zero_grad()
    gradient.step(ids, targets, mean_loss)


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets)


@pytest.mark.parametrize("name", METHODS)
def test_the_default_holds_no_more_than_backpropagation(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured_anew(monkeypatch)
    method, options = METHODS[name]
    assert peak_of_steps(method, **options) <= peak_of_steps("backprop")
    assert peak_of_steps(method, **options, memory="store") > peak_of_steps("backprop")


@pytest.mark.parametrize(
    ("name", "times"), [("activation perturbation", 1.25), ("wt", 1.35), ("wperp", 1.35), ("feedback", 1.6)]
)
def test_with_the_batch_at_once_a_step_holds_not_much_more(name: str, times: float) -> None:
    """Tangents are not kept beside what a layer saw, the cut network not beside all guesses, cotangents not at once."""
    method, options = METHODS[name]
    assert peak_of_steps(method, **options, memory="store") < times * peak_of_steps("backprop")


def test_feedback_lets_go_of_what_it_learns_of_a_batch_before_the_gradients_are_there() -> None:
    layers = [nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 300)]
    inputs, targets = torch.randn(12, 6).double(), torch.arange(12)

    def held(learning: str) -> int:
        model = nn.Sequential(*layers).double()
        gradient = ForwardGradient(model, "activation-perturbation", feedback="direct", feedback_learning=learning)
        stepped(model, gradient, inputs, targets)
        return peak_of(lambda: stepped(model, gradient, inputs, targets), CPU)

    matrix = 8 * 300 * 300
    assert held("tangents") - held("none") < matrix / 2


def test_weight_perturbation_holds_no_more_than_backpropagation() -> None:
    assert peak_of_steps("weight-perturbation", words=2_000) <= peak_of_steps("backprop", words=2_000)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"wperp"}))
def test_with_a_large_table_the_default_holds_no_more_than_backpropagation(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_anew(monkeypatch)
    method, options = METHODS[name]
    assert peak_of_steps(method, **options, words=5_000) <= peak_of_steps("backprop", words=5_000)


@cache
def peak_of_steps(method: str, *, words: int = 20, **options: Any) -> int:
    """Bytes that a step holds at its peak."""
    model, ids, targets = tokens(words=words)
    step = partial(stepped, model, ForwardGradient(model, method, **options), ids, targets)
    step()
    step()  # which takes up what the first one has found
    return peak_of(step, CPU)


@pytest.mark.parametrize("loss", [mean_loss, cross_entropy], ids=["mean", "a loss a sample"])
@pytest.mark.parametrize("name", ["wt", "feedback"])
@pytest.mark.parametrize("memory", ["auto", "replay"])
def test_parts_have_the_numbers_of_the_batch_with_dropout_and_sites_without_samples(
    memory: str, name: str, loss: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(monkeypatch, 5)
    method, options = METHODS[name]
    found = {}
    for one in ("store", memory):
        model, ids, targets = tokens()
        gradient = ForwardGradient(model, method, **options, memory=one)
        torch.manual_seed(1)
        losses = [gradient.step(ids, targets, loss) for _ in range(2)]
        found[one] = {key: p.grad for key, p in model.named_parameters()} | {"loss": losses[-1]}
        found[one]["drawn next"] = torch.rand(1)
    torch.testing.assert_close(found[memory], found["store"], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("wperp", {"k": 4, "solver": "shared"}),
        ("wperp", {"k": 4}),
        ("wperp-ns", {"k": 4}),
        ("wpre", {}),
        ("activation-perturbation", {"draws": "rademacher"}),
        ("activation-perturbation", {"feedback": "local"}),
    ],
)
def test_what_the_first_look_has_made_is_not_there_at_the_second(
    method: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space that was found, say. Else all that a step holds would be taken for samples' own, and parts be small."""
    measured_anew(monkeypatch)
    layers = [nn.Linear(5, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 3)]
    gradient = ForwardGradient(nn.Sequential(*layers), method, **options, memory="replay")
    gradient.step(torch.randn(16, 5), torch.arange(16) % 3, mean_loss)
    estimator = gradient._estimator
    assert isinstance(estimator, GuessEstimator)
    (seen,) = estimator._measured.values()
    assert seen is not None
    few, more = seen.ours.held
    assert len(few) == len(more) > 0


class Recurrent(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Counted(nn.Module):
    """A table whose gradient counts how often the batch looks a row up."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(4, 5, scale_grad_by_freq=True), nn.Linear(5, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids).mean(1))


@pytest.mark.parametrize("memory", ["replay", "auto"])
@pytest.mark.parametrize("network", [Recurrent, Counted])
def test_a_batch_larger_than_a_part_may_be_has_the_numbers_of_the_batch_at_once(
    network: type[nn.Module], memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured_anew(monkeypatch)
    monkeypatch.setattr("fgcli.gradient.engine.ROWS", 3)
    torch.manual_seed(0)
    model, targets = network().double(), torch.arange(16) % 3
    inputs = torch.randint(4, (16, 6)) if network is Counted else torch.randn(16, 6, 3).double()
    found = []
    for policy in ("store", memory):
        gradient = ForwardGradient(model, "activation-perturbation", memory=policy)
        stepped(model, gradient, inputs, targets)
        found.append([one.grad for one in model.parameters()])
    torch.testing.assert_close(*found)


def test_what_a_call_holds_of_many_samples_is_seen_of_few() -> None:
    model, ids, targets = tokens(40)
    estimator = GuessEstimator(Transpose(TransposeOptions()), memory="store")
    estimator.bind(model, ids)

    def estimate(samples: int, gradients: dict[str, Tensor]) -> None:
        batch = Batch(ids[:samples], targets[:samples])
        estimator._estimate(model, mean_loss, batch, Streams(0).at(0), gradients)

    foreseen = growth(estimate).most(40)
    assert foreseen == pytest.approx(peak_of(partial(estimate, 40, {}), CPU), rel=0.1)
