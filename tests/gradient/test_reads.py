"""What a forward reads off tensors is the whole batch's, in parts of it, in repetitions and in second passes."""

import pytest
import torch
from networks import batch_for, cross_entropy
from torch import Tensor, nn

from fgcli.gradient import engine
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.memory import Plan
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.options import TransposeOptions
from fgcli.methods.transpose import Transpose


class Branch(nn.Module):
    """A branch on the mean of the batch, which is positive, and a scale that is read off it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out = nn.Linear(4, 5), nn.Linear(5, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            positive = bool(x.mean() > 0)
        h = self.inner(x)
        h = torch.tanh(h) if positive else torch.sin(3 * h)
        return self.out(h / float(h.detach().abs().max()))


class Rounded(nn.Module):
    """A branch on a sum that is 0 but for rounding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.norm, self.other, self.out = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.inner(x))
        return self.out(self.other(h) if bool(h.detach().sum() > 0) else torch.sin(h))


METHODS = {"isotropic": Isotropic, "transpose": lambda: Transpose(TransposeOptions())}


@pytest.mark.parametrize("name", METHODS)
def test_a_part_of_a_batch_goes_the_way_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Branch()
    batch = batch_for(model.inner, 6)
    batch.inputs[3:] = -batch.inputs[3:].abs()  # a part of them alone would take the other way
    batch.inputs[:3] = 2 * batch.inputs[:3].abs() + 1
    batch = type(batch)(batch.inputs, batch.targets % 3)
    found = {}
    for rows in (6, 2):
        estimator = GuessEstimator(METHODS[name]())
        estimator.bind(model, batch.inputs)
        assert estimator.bound.reads
        assert estimator.bound.has_parts
        monkeypatch.setattr(engine.GuessEstimator, "_plan", lambda *_, rows=rows: Plan(rows))
        found[rows] = estimator.estimate(model, cross_entropy, batch, Streams(3).at(7))
    torch.testing.assert_close(found[2].gradients, found[6].gradients, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(found[2].losses, cross_entropy(model(batch.inputs), batch.targets).detach())


def test_no_pass_takes_another_way_as_sums_are_rounded() -> None:
    model = Rounded()
    taken = 0
    for seed in range(20):
        torch.manual_seed(seed)
        batch = batch_for(model.inner, 5)
        batch = type(batch)(torch.randn(5, 4, dtype=torch.float64), batch.targets % 3)
        estimator = GuessEstimator(Isotropic(), tangents=Tangents(6, chunk=4), memory="store")
        estimator.bind(model, batch.inputs)
        taken += bool(model.norm(model.inner(batch.inputs)).sum() > 0)
        estimate = estimator.estimate(model, cross_entropy, batch, Streams(seed).at(7))
        torch.testing.assert_close(estimate.losses, cross_entropy(model(batch.inputs), batch.targets).detach())
    assert 0 < taken < 20
