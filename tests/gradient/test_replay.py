"""Two passes that store nothing against the one that does, in float64."""

from functools import partial
from typing import Any

import pytest
import torch
from networks import any_network, batch_for, chain, cross_entropy, residual
from subjects import Normalised
from torch import nn

from fgcli.bench.measure import peak_of
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Estimate
from fgcli.gradient.forward_gradient import ForwardGradient
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.randomness import Streams
from fgcli.gradient.replay import ROWS
from fgcli.gradient.tangents import Tangents
from fgcli.guesses.options import OrthogonalOptions
from fgcli.guesses.orthogonal import orthogonal
from fgcli.guesses.transpose import Transpose

CPU = torch.device("cpu")
RNG = Streams(3).at(7)
GUESSES: dict[str, Any] = {
    "isotropic": Isotropic,
    "transpose": lambda: Transpose(None),  # type: ignore[arg-type]
    "shared": lambda: orthogonal(OrthogonalOptions(k=2, solver="shared")),
    "normalised": Normalised,
}
MODELS = {
    "bias": chain(5, 7, 6, 4, bias=True),
    "gelu": chain(5, 7, 6, 4, activation=nn.GELU),
    "inplace": nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 4)).double(),
    "norm": residual(),
    "dropout": nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 4)).double(),
}


def estimate(model: nn.Module, batch: Batch, memory: Any, guess: str, tangents: Tangents | None = None) -> Estimate:
    estimator = ForwardGradient(GUESSES[guess](), tangents=tangents, memory=memory)
    estimator.bind(model, batch.inputs[:3])
    with Streams(1).for_layers("layers", 0, CPU):
        return estimator.estimate(model, cross_entropy, batch, RNG)


@pytest.mark.parametrize(
    ("network", "guess", "tangents"),
    [
        ("bias", "isotropic", Tangents()),
        ("bias", "transpose", Tangents()),
        ("bias", "shared", Tangents(3, "orthogonal")),
        ("bias", "normalised", Tangents(3, chunk=2)),
        ("gelu", "transpose", Tangents()),
        ("gelu", "shared", Tangents(3, "projection")),
        ("inplace", "transpose", Tangents(2, draws="rademacher")),
        ("norm", "isotropic", Tangents()),
        ("norm", "isotropic", Tangents(3)),
        ("dropout", "isotropic", Tangents()),
    ],
)
def test_one_part_has_the_bits_of_the_pass_that_stores(network: str, guess: str, tangents: Tangents) -> None:
    model = MODELS[network]
    batch = batch_for(model, 9)
    stored, replayed = (estimate(model, batch, memory, guess, tangents) for memory in ("store", "replay"))
    assert torch.equal(replayed.losses, stored.losses)
    assert stored.directional_derivative is not None
    assert replayed.directional_derivative is not None
    assert torch.equal(replayed.directional_derivative, stored.directional_derivative)
    assert replayed.gradients.keys() == stored.gradients.keys()
    assert all(torch.equal(replayed.gradients[name], g) for name, g in stored.gradients.items())


@pytest.mark.parametrize(
    ("network", "guess", "tangents", "size"),
    [
        ("bias", "shared", Tangents(4, "orthogonal", chunk=3), 9),
        ("bias", "transpose", Tangents(), 2 * ROWS + 1),
        ("norm", "isotropic", Tangents(), ROWS + 1),
        ("bias", "shared", Tangents(2, "projection", draws="gaussian"), ROWS + 3),
        ("bias", "isotropic", Tangents(2, draws="antithetic"), ROWS + 3),
        # What cannot be drawn in parts is not taken in parts.
        ("bias", "isotropic", Tangents(2, draws="rademacher"), ROWS + 3),
        ("bias", "normalised", Tangents(), ROWS + 3),
        ("dropout", "isotropic", Tangents(), ROWS + 3),
    ],
)
def test_several_parts_or_chunks_have_its_numbers_to_rounding(
    network: str, guess: str, tangents: Tangents, size: int
) -> None:
    model = MODELS[network]
    batch = batch_for(model, size)
    stored, replayed = (estimate(model, batch, memory, guess, tangents) for memory in ("store", "replay"))
    torch.testing.assert_close(replayed.losses, stored.losses)
    torch.testing.assert_close(replayed.directional_derivative, stored.directional_derivative, rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(replayed.gradients, stored.gradients, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("guess", ["isotropic", "transpose", "shared"])
def test_memory_grows_by_the_gradients_alone(guess: str) -> None:
    width, size = 16, 2 * ROWS
    peaks: dict[tuple[str, int], int] = {}
    for depth in (4, 12):
        model = chain(5, *[width] * depth, 4)
        batch = batch_for(model, size)
        for memory in ("store", "replay"):
            estimator = ForwardGradient(GUESSES[guess](), memory=memory)
            estimator.bind(model, batch.inputs[:3])
            call = partial(estimator.estimate, model, cross_entropy, batch, RNG)
            call()
            peaks[memory, depth] = peak_of(call, CPU)
    activation = size * width * 8  # bytes
    more = 8 * (width * width * 8 + 6_000)  # gradients of eight more layers, and the states of their streams
    assert peaks["replay", 12] - peaks["replay", 4] <= more
    assert peaks["store", 12] - peaks["store", 4] > 16 * activation
    assert peaks["replay", 12] - more < 5 * activation


def test_a_site_whose_jacobian_needs_other_layers_is_refused_by_name() -> None:
    model, batch = any_network("attention")
    said = r"site 'embed' \(Linear\) .* needs what other layers give.* use memory=store, or activation-perturbation"
    with pytest.raises(ModelRefused, match=said):
        ForwardGradient(GUESSES["transpose"](), memory="replay").bind(model, batch.inputs)
