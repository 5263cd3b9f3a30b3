import torch
from torch import Tensor, nn

from fg_plugin_singhal.mixing import ActivationMixing
from fgcli import GuessEstimator, GuessOptions, Layer, LinearUpstream, load_registry
from fgcli.testing import check_guess_method


def make() -> ActivationMixing:
    return ActivationMixing(GuessOptions())


def covariance(layer: Layer, upstream: LinearUpstream) -> Tensor:
    assert layer.output is not None
    slope = upstream.slope
    x = layer.output * slope
    mask = (slope != 0).to(x.dtype)
    return mask.unsqueeze(2) * (x.T @ x / len(x)) * mask.unsqueeze(1)


def test_it_keeps_the_contract() -> None:
    check_guess_method(make, covariance=covariance)


def test_the_guess_is_the_mixture_of_activations_that_the_paper_describes() -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    inputs = torch.randn(4, 5, generator=generator, dtype=torch.float64)
    z = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    engine = GuessEstimator(make())
    engine.bind(model, inputs)
    found = engine.linear_maps(model, inputs, 0)["0"].map(z)
    x = torch.relu(model[0](inputs)).detach()
    for b in range(4):
        mixture = sum((z[b, other] * x[other] for other in range(4)), torch.zeros(7, dtype=torch.float64))
        torch.testing.assert_close(found[b], mixture * (x[b] > 0) / 2)


def test_it_is_registered() -> None:
    assert load_registry().find("guess method", "fg-plugin-singhal:activation-mixing").entry.load() is ActivationMixing
