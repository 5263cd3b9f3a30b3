"""Samples that meet in a model are seen, also where a few of them do not show it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from zoo import Net

from fgcli.gradient.look import look

X = torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 1.0]])


@pytest.mark.parametrize("dead", range(3))
def test_samples_meet_though_the_way_of_one_ends_at_a_relu(dead: int) -> None:
    """That sample's tangent gets nowhere: with it alone, no meeting was seen, and δ would have been a sample's."""
    first = nn.Linear(2, 2)
    model = nn.Sequential(first, nn.ReLU(), nn.BatchNorm1d(2), nn.Linear(2, 2))
    inputs = torch.ones(3, 2)
    inputs[dead] = -1.0
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0, 0.5], [0.3, 0.9]]))
        first.bias.zero_()
    assert look(model, inputs).mixes


def test_rows_that_meet_in_a_mean_are_not_taken_as_apart_where_no_two_samples_meet() -> None:
    """Each unit is on in one sample alone: the batch's statistics join that sample with its own copies."""
    first = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(first, nn.ReLU(), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        first.weight.copy_(torch.eye(2))
    network = look(model, torch.tensor([[1.0, -1.0], [-1.0, 2.0], [-1.0, -1.0]]))
    assert not network.mixes
    assert not network.by_rows


@pytest.mark.parametrize("seed", range(5))
def test_samples_meet_whatever_a_dropout_draws(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.9), nn.BatchNorm1d(3), nn.Dropout(0.9), nn.Linear(3, 2))
    assert look(model, X).mixes


def _restored(m: Any, x: Tensor, p: Tensor) -> Tensor:
    return m.b(m.a(x)[p].tanh())[p.argsort()]


def _routed(m: Any, x: Tensor) -> Tensor:
    h = m.a(x).tanh()
    out = h.clone()
    out[x[:, 0] > 0] = m.b(h[x[:, 0] > 0])
    return out


def _masked(m: Any, x: Tensor) -> Tensor:
    h = m.a(x)
    h[x > 0] = 0.0
    return m.b(h)[torch.arange(len(x)), :]


ORDERED: dict[str, tuple[Any, bool]] = {
    "sorted by the data": (lambda m, x: _restored(m, x, x[:, 0].argsort()), True),
    "shuffled": (lambda m, x: _restored(m, x, torch.randperm(len(x))), True),
    "gathered": (lambda m, x: m.b(m.a(x).gather(0, x.argsort(0))), True),
    "routed": (_routed, True),
    "the largest of each sample": (lambda m, x: m.b(m.a(x).gather(1, x.argsort(1))), False),
    "masked places, samples in their order": (_masked, False),
}


@pytest.mark.parametrize(("forward", "meets"), ORDERED.values(), ids=ORDERED)
def test_samples_in_an_order_of_the_data_meet_also_where_the_few_looked_at_are_in_order(
    forward: Any, meets: bool
) -> None:
    model = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    x = torch.arange(12.0).view(3, 4) + 1
    assert bool(look(model, x).mixes) == meets
