"""Every parameter of every kind of module is found, and its gradient is that of `backward`."""

from typing import Any

import pytest
import torch
from exact import backward, smooth, summed
from parts import in_parts
from zoo import ZOO, inputs_of, made

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.look import look
from fgcli.gradient.tangents import Tangents


@pytest.mark.parametrize("name", ZOO)
def test_every_trained_parameter_is_in_a_site_or_a_piece_or_unused(name: str) -> None:
    model, inputs, kind = made(name), inputs_of(name, 3), ZOO[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    network = look(model, inputs)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    at_sites = {parameter for site in network.sites.values() for parameter in site.parameters}
    found = [
        *(at_sites & {n for n, p in model.named_parameters() if p.requires_grad}),
        *network.pieces,
        *network.unused,
    ]
    assert sorted(found) == sorted(n for n, p in model.named_parameters() if p.requires_grad)
    assert kind.sites is None or tuple(network.sites) == kind.sites
    assert set(network.pieces) == set(kind.pieces)
    if kind.unused is not None:
        assert network.unused == kind.unused
    assert bool(network.mixes) == kind.mixes, network.mixes


@pytest.mark.parametrize(("memory", "number", "size"), [("store", 1, 3), ("replay", 4, 35)])
@pytest.mark.parametrize("name", ZOO)
def test_gradients_are_those_of_backward(
    name: str, memory: Any, number: int, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(monkeypatch, 16)  # parts of 16 and 19 samples
    model, batch = made(name), Batch(inputs_of(name, size), None)
    expected = backward(model, smooth, batch)
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(number), memory=memory)
    coverage = estimator.bind(model, batch.inputs)
    found = summed(estimator, model, smooth, batch)
    missing = {key: torch.zeros_like(g) for key, g in expected.items() if key in coverage.unused}
    single = ZOO[name].dtype == torch.float32
    torch.testing.assert_close(
        missing | found,
        missing | {key: expected[key] for key in found},
        rtol=1e-3 if single else 1e-9,
        atol=1e-5 if single else 1e-11,
    )
    assert {*found, *missing} == {*expected}
