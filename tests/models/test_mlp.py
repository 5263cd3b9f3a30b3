from itertools import pairwise
from typing import get_args

import pytest
import torch
from torch import nn
from torch.nn import functional

from fgcli.errors import UsageError
from fgcli.models.mlp import mlp
from fgcli.models.options import Activation, MLPOptions


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_default_is_the_papers_network():
    model = mlp(MLPOptions(), (40,), 10, generator())
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes == {
        "hidden1.weight": (128, 40),
        "hidden2.weight": (128, 128),
        "hidden3.weight": (128, 128),
        "output.weight": (10, 128),
    }
    assert [type(layer) for layer in model] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]


def test_a_network_larger_than_the_memory_is_refused_before_it_is_drawn():
    with pytest.raises(UsageError, match=r"width 100000000 and depth 3 has 20,000,005,000,000,000 weights, which take"):
        mlp(MLPOptions(width=10**8), (40,), 10, generator())


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "depth"), [(1, 1), (7, 2), (16, 5)])
def test_initialised_as_pytorch_does(bias, width, depth):
    options = MLPOptions(width=width, depth=depth, bias=bias)
    model = mlp(options, (5,), 3, generator(11))
    sizes = [5] + [width] * depth + [3]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        layers = [nn.Linear(a, b, bias=bias) for a, b in pairwise(sizes)]
    expected = [parameter for layer in layers for parameter in layer.parameters()]
    found = list(model.parameters())
    assert len(found) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_the_generator_alone_decides_and_the_global_one_is_untouched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mlp(MLPOptions(bias=True), (4,), 2, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = mlp(MLPOptions(bias=True), (4,), 2, generator(3))
    third = mlp(MLPOptions(bias=True), (4,), 2, generator(4))
    for a, b, c in zip(first.parameters(), second.parameters(), third.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


@pytest.mark.parametrize("activation", get_args(Activation))
def test_computes_what_it_says(activation):
    model = mlp(MLPOptions(width=6, depth=2, bias=True, activation=activation), (4,), 3, generator())
    inputs = torch.randn(9, 4, generator=generator(1))
    function = getattr(functional, activation)
    weights = dict(model.named_parameters())
    values = inputs
    for name in ("hidden1", "hidden2"):
        values = function(values @ weights[f"{name}.weight"].T + weights[f"{name}.bias"])
    expected = values @ weights["output.weight"].T + weights["output.bias"]
    torch.testing.assert_close(model(inputs), expected)


def test_inputs_of_several_axes_are_flattened():
    model = mlp(MLPOptions(width=6), (2, 3, 4), 5, generator())
    flat = mlp(MLPOptions(width=6), (24,), 5, generator())
    inputs = torch.randn(7, 2, 3, 4, generator=generator(1))
    assert torch.equal(model(inputs), flat(inputs.reshape(7, 24)))
    assert dict(model.named_parameters()).keys() == dict(flat.named_parameters()).keys()
