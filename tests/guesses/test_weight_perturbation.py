"""Weight perturbation: its directional derivative is the inner product with the true gradient of every parameter."""

import pytest
import torch
import torch.nn.functional as F
from networks import batch_for, chain, cross_entropy, residual
from torch import Tensor, nn

from fgcli.extend.options import Options
from fgcli.gradient.randomness import Streams
from fgcli.guesses import weight_perturbation
from fgcli.guesses.weight_perturbation import WeightPerturbation

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


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_directional_derivative_and_gradients(name: str, by_hand: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if by_hand and name == "reused":
        pytest.skip("by hand, a weight is known in its own layer alone")
    model = MODELS[name]
    batch = batch_for(model, 6)
    monkeypatch.setattr(weight_perturbation, "lacks_layer_formulas", lambda _: by_hand)
    estimator = WeightPerturbation(Options())
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
