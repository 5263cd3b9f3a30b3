import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fg_plugin_singhal import DownstreamOptions
from fg_plugin_singhal.downstream import LayerDownstream
from fgcli import Batch, Estimate, Estimator, GuessEstimator, GuessOptions, Streams, load_registry
from fgcli.testing import check_estimator

RNG = Streams(3).at(2)


def make(layers: int) -> LayerDownstream:
    return LayerDownstream(DownstreamOptions(layers=layers))


def network() -> tuple[nn.Sequential, Batch]:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)]
    inputs = torch.randn(4, 5, dtype=torch.float64)
    return nn.Sequential(*layers).double(), Batch(inputs, torch.arange(4) % 3)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def estimate(estimator: Estimator) -> Estimate:
    model, batch = network()
    estimator.bind(model, batch.inputs)
    return estimator.estimate(model, cross_entropy, batch, RNG)


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_it_keeps_the_contract(layers: int) -> None:
    check_estimator(lambda: make(layers))


def test_one_layer_is_wt() -> None:
    one, wt = (
        estimate(make(1)),
        estimate(GuessEstimator(load_registry().entry("guess method", "wt").load()(GuessOptions()))),
    )
    for name, gradient in wt.gradients.items():
        assert torch.equal(one.gradients[name], gradient)


@pytest.mark.parametrize("layers", [2, 3, 9])
def test_the_noise_goes_back_through_the_layers_as_reverse_mode_sends_it(layers: int) -> None:
    model, batch = network()
    outputs, x = [], batch.inputs
    for module in model:
        x = module(x)
        if isinstance(module, nn.Linear):
            outputs.append(x)
    guesses = []
    for number, s in enumerate(outputs):
        start = min(number + layers, len(outputs) - 1)
        z = RNG.normal("guess", str(2 * number), tuple(outputs[start].shape), s)
        guesses.append(torch.autograd.grad(outputs[start], s, z, retain_graph=True)[0])
    true = torch.autograd.grad(cross_entropy(outputs[-1], batch.targets).mean(), outputs)
    expected = torch.stack([(g * y).sum(1) for g, y in zip(true, guesses, strict=True)]).sum(0)
    found = estimate(make(layers))
    torch.testing.assert_close(found.directional_derivative, expected)
    torch.testing.assert_close(found.gradients["0.weight"], (expected.unsqueeze(1) * guesses[0]).T @ batch.inputs)


def test_it_is_registered() -> None:
    found = load_registry().find("estimator", "fg-plugin-singhal:layer-downstream")
    assert found.entry.load() is LayerDownstream


def test_registering_imports_no_torch() -> None:
    code = "import sys, fg_plugin_singhal; fg_plugin_singhal.fg_estimators(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
