"""Two passes that store nothing, and passes of small parts, against the one that stores, in float64."""

import gc
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from claims import ESTIMATORS, Claim
from claims import GUESSES as CLAIMS
from networks import any_network, batch_for, chain, cross_entropy, residual
from parts import in_parts, measured_anew
from subjects import Normalised
from torch import Tensor, nn

from fgcli.bench.measure import peak_of
from fgcli.extend.registry import load_registry
from fgcli.gradient.engine import ROWS, GuessEstimator
from fgcli.gradient.estimator import Batch, Estimate
from fgcli.gradient.guess import Isotropic, Layer, LinearMap
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.upstream import UpstreamJacobian
from fgcli.methods.newton_schulz import newton_schulz
from fgcli.methods.options import NewtonSchulzOptions, OrthogonalOptions, PreconditionedOptions, TransposeOptions
from fgcli.methods.orthogonal import orthogonal
from fgcli.methods.preconditioned import preconditioned
from fgcli.methods.transpose import Transpose
from fgcli.models.options import ResMLPOptions, TransformerOptions
from fgcli.models.resmlp import ResMLP
from fgcli.models.transformer import Transformer

CPU = torch.device("cpu")
RNG = Streams(3).at(7)


class Centred(Transpose):
    """Its guess for a sample depends on the others."""

    whole_batch = True

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        return LinearMap(upstream.output_dim, lambda z: upstream.apply_transpose(z - z.mean(0)))


GUESSES: dict[str, Any] = {
    "centred": lambda: Centred(TransposeOptions()),
    "isotropic": Isotropic,
    "transpose": lambda: Transpose(TransposeOptions()),
    "krylov": lambda: orthogonal(OrthogonalOptions(k=2, solver="krylov")),
    "mean": lambda: orthogonal(OrthogonalOptions(k=2, solver="mean")),
    "newton-schulz": lambda: newton_schulz(NewtonSchulzOptions(k=2, solver="krylov")),
    "preconditioned": lambda: preconditioned(PreconditionedOptions(iterations=5)),
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
    estimator = GuessEstimator(GUESSES[guess](), tangents=tangents, memory=memory)
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
        ("bias", "shared", Tangents(2, "sitewise")),
        ("norm", "isotropic", Tangents(3, "sitewise", chunk=2)),
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
        ("bias", "isotropic", Tangents(2, draws="rademacher"), ROWS + 3),
        # What draws for itself is not taken in parts.
        ("bias", "normalised", Tangents(), ROWS + 3),
        ("dropout", "isotropic", Tangents(), ROWS + 3),
    ],
)
def test_several_parts_or_chunks_have_its_numbers_to_rounding(
    network: str, guess: str, tangents: Tangents, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(monkeypatch, ROWS)
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
    for depth in (2, 6):
        model = chain(5, *[width] * depth, 4)
        batch = batch_for(model, size)
        for memory in ("store", "replay"):
            estimator = GuessEstimator(GUESSES[guess](), memory=memory)
            estimator.bind(model, batch.inputs[:3])
            call = partial(estimator.estimate, model, cross_entropy, batch, RNG)
            call()
            peaks[memory, depth] = peak_of(call, CPU)
    activation = size * width * 8  # bytes
    more = 8 * (width * width * 4 + 3_000)  # gradients of four more layers, and the states of their streams
    assert peaks["replay", 6] - peaks["replay", 2] <= more < activation / 2
    assert peaks["store", 6] - peaks["store", 2] > 7 * activation  # an input and a guess a layer
    assert peaks["replay", 6] - more < 5 * activation


@pytest.fixture
def collector() -> Iterator[None]:
    """Python's collector runs when it is called, keeps what it finds in gc.garbage, and looks at new objects alone."""
    gc.collect()
    gc.freeze()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()
    gc.unfreeze()


@pytest.mark.parametrize("memory", ["store", "replay"])
def test_a_step_leaves_nothing_to_pythons_collector(memory: str, collector: None) -> None:
    """In a reference cycle the activations of a step would stay until the collector runs, some steps later."""
    model = chain(5, 7, 6, 4)
    batch = batch_for(model, 9)
    left: dict[str, list[torch.Size]] = {}
    for claim in (one for one in (*CLAIMS, *ESTIMATORS) if one.method != "local-gradient"):  # which takes heads
        takes = load_registry().method(claim.method)[1].options.model_fields
        if memory == "store" and "memory" not in takes:
            continue  # it has one way, which is looked at once
        more = {"memory": memory} if "memory" in takes else {}
        estimator = Claim(claim.method, claim.options | more).estimator()
        estimator.bind(model, batch.inputs[:3])
        gc.collect()
        gc.garbage.clear()
        estimator.estimate(model, cross_entropy, batch, RNG)
        gc.collect()
        if shapes := [one.shape for one in gc.garbage if isinstance(one, Tensor)]:
            left[claim.name] = shapes
        gc.garbage.clear()
    assert left == {}


def transformer() -> tuple[nn.Module, Batch]:
    """A transformer of float64 and a batch of 51 for it."""
    options = TransformerOptions(width=6, depth=1, heads=2, patch=4)
    model = Transformer(options, (12,), 3, torch.Generator().manual_seed(0)).double()
    inputs = torch.randn(51, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return model, Batch(inputs, torch.arange(51) % 3)


@pytest.mark.parametrize(
    ("network", "guess", "tangents"),
    [
        *(
            (network, guess, Tangents())
            for network in ("convolutions-2d", "residual", "transformer")
            for guess in ("transpose", "krylov", "newton-schulz", "preconditioned")
        ),
        ("attention", "transpose", Tangents(3)),
        ("residual", "krylov", Tangents(3, "orthogonal")),
        ("convolutions-2d", "newton-schulz", Tangents(3, "orthogonal")),
        ("residual", "preconditioned", Tangents(3)),
        ("residual", "krylov", Tangents(2, "sitewise")),
        ("attention", "mean", Tangents()),
        # What cannot be had in parts is not taken in parts.
        ("attention", "centred", Tangents()),
        ("transformer", "transpose", Tangents(2, draws="rademacher")),
        ("transformer", "krylov", Tangents(3, "projection", chunk=2)),
        ("past-all-sites", "transpose", Tangents(3, "orthogonal", chunk=2)),
    ],
)
def test_where_jacobians_have_no_matrix_parts_have_its_numbers_and_leave_its_state(
    network: str, guess: str, tangents: Tangents, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_parts(monkeypatch, 16)  # and a last part of 3
    model, batch = transformer() if network == "transformer" else any_network(network, 51)
    estimates: dict[str, list[Estimate]] = {"store": [], "replay": []}
    states: dict[str, dict[str, Tensor]] = {}
    for memory in ("store", "replay"):
        estimator = GuessEstimator(GUESSES[guess](), tangents=tangents, memory=memory)
        estimator.bind(model, batch.inputs[:3])
        for step in (0, 1):
            estimates[memory].append(estimator.estimate(model, cross_entropy, batch, Streams(3).at(step)))
        states[memory] = estimator.state()
    assert bool(states["store"]) == (guess in ("krylov", "newton-schulz", "mean"))
    torch.testing.assert_close(states["replay"], states["store"])
    for replayed, stored in zip(*(estimates[memory] for memory in ("replay", "store")), strict=True):
        torch.testing.assert_close(replayed.losses, stored.losses)
        torch.testing.assert_close(replayed.directional_derivative, stored.directional_derivative)
        torch.testing.assert_close(replayed.gradients, stored.gradients)


def test_memory_grows_by_the_gradients_alone_in_a_residual_net(monkeypatch: pytest.MonkeyPatch) -> None:
    width, size, generator = 16, 512, torch.Generator().manual_seed(0)
    measured_anew(monkeypatch)
    peaks: dict[tuple[str, int], int] = {}
    for depth in (2, 6):
        model = ResMLP(ResMLPOptions(width=width, depth=depth), (5,), 4, generator).double()
        batch = batch_for(model, size)
        for memory in ("store", "replay"):
            estimator = GuessEstimator(GUESSES["transpose"](), uncovered="freeze", memory=memory)
            estimator.bind(model, batch.inputs[:3])
            call = partial(estimator.estimate, model, cross_entropy, batch, RNG)
            call()  # which looks at few samples first
            peaks[memory, depth] = peak_of(call, CPU)
    gradients = 8 * 4 * (2 * width * width + 2 * width)  # of four more blocks, in bytes
    assert peaks["replay", 6] - peaks["replay", 2] < gradients + 8 * 6_000  # the states of eight more sites' streams
    assert peaks["store", 6] > 2 * peaks["store", 2]
