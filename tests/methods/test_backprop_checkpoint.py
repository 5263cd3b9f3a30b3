"""Checkpointing: the gradient of backpropagation, layers run twice, and less stored."""

import pytest
import torch
from networks import batch_for, chain, cross_entropy
from torch import nn
from torch.utils.checkpoint import checkpoint

from fgcli.bench.flops import count_flops
from fgcli.extend.options import Options
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams
from fgcli.methods.backprop import Backprop
from fgcli.methods.backprop_checkpoint import BackpropCheckpoint
from fgcli.methods.options import CheckpointOptions

RNG = Streams(0).at(0)


class Blocks(nn.Module):
    """No nn.Sequential, with children that are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = chain(5, 7, 5), chain(5, 7, 5, seed=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.first(x)
        return x + self.second(x)


LINEAR = 2 * 6 * 5 * 7  # operations of the first layer for a batch of 6


@pytest.mark.parametrize(
    ("model", "segments", "again"),
    [
        (chain(5, 7, 7, 4), None, LINEAR),  # two stretches, of 2 and 3 layers: the last one is not run again
        (chain(5, 7, 7, 4), 1, 0),
        (Blocks(), None, 2 * LINEAR),  # the first layer of each block; what follows it needs no more
    ],
)
def test_the_gradient_of_backpropagation(model: nn.Module, segments: int | None, again: int) -> None:
    batch = batch_for(model, 6)
    reference, checkpointed = Backprop(Options()), BackpropCheckpoint(CheckpointOptions(segments=segments))
    expected = reference.estimate(model, cross_entropy, batch, RNG)
    found = checkpointed.estimate(model, cross_entropy, batch, RNG)
    assert found.losses.equal(expected.losses)
    assert all(found.gradients[name].equal(gradient) for name, gradient in expected.gradients.items())
    extra = count_flops(lambda: checkpointed.estimate(model, cross_entropy, batch, RNG))
    extra -= count_flops(lambda: reference.estimate(model, cross_entropy, batch, RNG))
    assert extra == again
    assert all("forward" not in vars(module) for module in model.modules())


class Shift(nn.Module):
    """Changes its input in place, which twice is not the same as once; `on` says whether."""

    on = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1).mul_(1.5) if self.on else x + 1


class InPlace(nn.Module):
    """Layers by their names, with some that change what they are given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.shift = nn.Linear(5, 7), nn.LayerNorm(7), Shift()
        self.act, self.last = nn.ReLU(inplace=True), nn.Linear(7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.act(self.shift(self.norm(self.first(x)))))


def in_a_row(model: InPlace) -> nn.Sequential:
    return nn.Sequential(*model.children())


@pytest.mark.parametrize("segments", [None, *range(1, 6)])
def test_segments_that_change_what_they_are_given_in_place(segments: int | None) -> None:
    torch.manual_seed(0)
    own = InPlace().double()
    model = own if segments is None else in_a_row(own)
    batch, checkpointed = batch_for(model, 6), BackpropCheckpoint(CheckpointOptions(segments=segments))
    expected = Backprop(Options()).estimate(model, cross_entropy, batch, RNG).gradients
    for _ in range(3):  # at the first, nothing is known of the segments
        found = checkpointed.estimate(model, cross_entropy, batch, RNG).gradients
        assert all(found[name].equal(gradient) for name, gradient in expected.items())


def test_a_segment_that_changes_its_input_at_some_steps_alone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = in_a_row(InPlace().double())
    batch, checkpointed = batch_for(model, 6), BackpropCheckpoint(CheckpointOptions(segments=5))
    monkeypatch.setattr(model[2], "on", False)
    checkpointed.estimate(model, cross_entropy, batch, RNG)
    monkeypatch.setattr(model[2], "on", True)
    with pytest.raises(ModelRefused, match="a Shift changes its input in place, at some steps alone: use backprop"):
        checkpointed.estimate(model, cross_entropy, batch, RNG)


class Own(Blocks):
    """With a checkpoint of its own, around a child and what follows it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(checkpoint(lambda x: self.first(x).tanh() * self.first(x.cos()), x, use_reentrant=False))


def test_the_model_s_own_checkpoints_act_within() -> None:
    model = Own()
    batch = batch_for(model, 6)
    expected = Backprop(Options()).estimate(model, cross_entropy, batch, RNG).gradients
    found = BackpropCheckpoint(CheckpointOptions()).estimate(model, cross_entropy, batch, RNG).gradients
    assert all(found[name].equal(gradient) for name, gradient in expected.items())


class Elsewhere(nn.Module):
    """Calls its child with other weights than the child has."""

    def __init__(self) -> None:
        super().__init__()
        self.child = chain(5, 7, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        doubled = {name: 2 * parameter for name, parameter in self.child.named_parameters()}
        return torch.func.functional_call(self.child, doubled, (x,))


class Counting(nn.Module):
    """Scales by the number of its calls, which a buffer keeps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return (x * self.calls).tanh()


class Within(nn.Module):
    """A child that is no stretch of a Sequential."""

    def __init__(self, child: nn.Module) -> None:
        super().__init__()
        self.child = child

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.child(x)


def spectral() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(5, 6)), nn.Tanh(), nn.Linear(6, 4)).double()


CHANGING = {
    "functional_call": Elsewhere,
    "counting": lambda: nn.Sequential(Counting(), *chain(5, 7, 4)),
    "counting child": lambda: Within(nn.Sequential(Counting(), *chain(5, 7, 4))),
    "spectral norm": spectral,
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(5).double(), *chain(5, 7, 4)),
}


@pytest.mark.parametrize("name", CHANGING)
def test_on_the_way_back_a_layer_is_as_it_was(name: str) -> None:
    model, twin = CHANGING[name](), CHANGING[name]()
    twin.load_state_dict(model.state_dict())
    batch = Batch(torch.randn(6, 5, dtype=torch.double), torch.arange(6) % 4)
    estimator = BackpropCheckpoint(CheckpointOptions())
    estimator.bind(model, batch.inputs)
    for _ in range(2):
        expected = Backprop(Options()).estimate(twin, cross_entropy, batch, RNG).gradients
        found = estimator.estimate(model, cross_entropy, batch, RNG).gradients
        for key, gradient in expected.items():
            torch.testing.assert_close(found[key], gradient)
        assert all(one.equal(other) for one, other in zip(model.buffers(), twin.buffers(), strict=True))


class Body(nn.Module):
    """A list of blocks, as transformers have it."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(chain(64, 64, 64, 64, 64) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x


@pytest.mark.parametrize(("model", "width"), [(chain(8, *[64] * 12, 4), 8), (Within(Body()), 64)])
def test_it_stores_less(model: nn.Module, width: int) -> None:
    batch = Batch(torch.randn(512, width, dtype=torch.double), torch.arange(512) % 4)

    def stored(estimator: Backprop | BackpropCheckpoint) -> int:
        """The most bytes that autograd keeps at once beside the parameters: what is saved in the first forward."""
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            sizes.append(sum(kept.values()))
            return cross_entropy(outputs, targets)

        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            estimator.estimate(model, loss, batch, RNG)
        return sizes[0]

    assert stored(BackpropCheckpoint(CheckpointOptions())) < 0.5 * stored(Backprop(Options()))
