"""PEPITA held to the authors' formulas, written out for an MLP and a convolution."""

import pytest
import torch
import torch.nn.functional as F
from networks import batch_for, chain, cross_entropy, residual
from torch import nn

from fgcli.gradient.errors import ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams
from fgcli.methods.options import PepitaOptions
from fgcli.methods.pepita import Pepita

RNG = Streams(3).at(7)


def test_the_updates_of_an_mlp_are_those_of_the_paper() -> None:
    model = chain(5, 7, 6, 4)
    batch = batch_for(model, 8)
    pepita = Pepita(PepitaOptions(scale=0.5))
    pepita.bind(model, batch.inputs)
    found = pepita.estimate(model, cross_entropy, batch, RNG).gradients
    w1, w2, w3 = (one.detach() for one in model.parameters())

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        h1 = torch.relu(x @ w1.T)
        h2 = torch.relu(h1 @ w2.T)
        return [h1, h2, h2 @ w3.T]

    h1, h2, out = forward(batch.inputs)
    e = out.softmax(1) - F.one_hot(batch.targets, 4)
    changed = batch.inputs + e @ pepita.matrix(RNG, batch.inputs[0], e).T
    c1, c2, _ = forward(changed)
    expected = [(h1 - c1).T @ changed / 8, (h2 - c2).T @ c1 / 8, e.T @ c2 / 8]
    for gradient, one in zip(found.values(), (expected[2], expected[0], expected[1]), strict=True):
        torch.testing.assert_close(gradient, one)


def test_to_first_order_the_error_goes_through_the_jacobian_of_the_layers_before() -> None:
    """h - h' = -J F e: for a linear network exactly, so that the first layer's update is -W F e (x + F e)ᵀ."""
    model = chain(5, 7, 4, activation=nn.Identity)
    batch = batch_for(model, 3)
    pepita = Pepita(PepitaOptions())
    pepita.bind(model, batch.inputs)
    first, second = (one.detach() for one in model.parameters())
    found = pepita.estimate(model, cross_entropy, batch, RNG).gradients["0.weight"]
    e = (batch.inputs @ first.T @ second.T).softmax(1) - F.one_hot(batch.targets, 4)
    fe = e @ pepita.matrix(RNG, batch.inputs[0], e).T
    torch.testing.assert_close(found, -(fe @ first.T).T @ (batch.inputs + fe) / 3)


def test_a_convolution_has_its_own_product_with_the_changed_input() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 2, 3)
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)).double()
    x, targets = torch.randn(4, 1, 4, 4, dtype=torch.double), torch.randint(3, (4,))
    pepita = Pepita(PepitaOptions())
    pepita.bind(model, x)
    found = pepita.estimate(model, cross_entropy, Batch(x, targets), RNG).gradients
    e = (model(x).softmax(1) - F.one_hot(targets, 3)).detach()
    changed = x + (e @ pepita.matrix(RNG, x[0], e).T).view_as(x)
    h, c = torch.relu(conv(x)).detach(), conv(changed)
    (expected,) = torch.autograd.grad(c, [conv.weight], (h - torch.relu(c).detach()) / 4)
    torch.testing.assert_close(found["0.weight"], expected)


def test_in_low_precision_a_change_that_rounding_reaches_is_refused() -> None:
    with pytest.raises(OptionRefused, match=r"scale is 0.05; in bfloat16 rounding is as large .* at least 0.088"):
        Pepita(PepitaOptions()).refuse_precision(torch.bfloat16)
    Pepita(PepitaOptions(scale=0.1)).refuse_precision(torch.bfloat16)


CONV = nn.Conv2d(1, 2, 3)
REFUSED = {
    "its layers are no chain": (residual(), batch_for(residual(), 3).inputs),
    "between site '0' and '3' lies more": (
        nn.Sequential(CONV, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(2, 3)),
        torch.zeros(3, 1, 4, 4),
    ),
    "its output is not that of its last layer": (nn.Sequential(nn.Linear(4, 4), nn.AvgPool1d(2)), torch.zeros(3, 4)),
}


@pytest.mark.parametrize("said", REFUSED)
def test_where_the_definition_does_not_allow_it_it_is_refused(said: str) -> None:
    model, x = REFUSED[said]
    with pytest.raises(ModelRefused, match=said):
        Pepita(PepitaOptions()).bind(model, x)
