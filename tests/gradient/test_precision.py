"""The network in fewer bits, held to float64 and to float32."""

import copy
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Wrapped, any_network, cross_entropy
from networks import site_gradients as true_gradients
from torch import Tensor, nn

from fgcli.extend.registry import load_registry
from fgcli.gradient.draws import joined
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.guess import Layer, LinearMap, Memory
from fgcli.gradient.low_precision import LowPrecision
from fgcli.gradient.nested import primal_of
from fgcli.gradient.precision import full_precision, lacks
from fgcli.gradient.randomness import Streams
from fgcli.gradient.step import Derivatives, Step
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
from fgcli.gradient.uses import Use
from fgcli.methods.make import make_estimator
from fgcli.methods.options import OrthogonalOptions
from fgcli.methods.orthogonal import orthogonal
from fgcli.models.mlp import mlp
from fgcli.models.options import MLPOptions

RNG = Streams(3).at(7)
GUESSES = sorted(load_registry().names("guess method"))
METHODS = {*GUESSES, *load_registry().names("estimator")}
METHODS -= {"spsa", "mezo", "fzoo"}  # differences of the loss: tests/methods/test_spsa
METHODS -= {"pepita", "local-gradient"}  # tests/methods/test_pepita; for models with local losses alone
METHODS -= {"wperp-bottom"}  # its basis is an SVD's of singular values of 0: a bit of rounding makes it another


@cache
def at_width_512(activation: Any) -> tuple[nn.Sequential, Batch]:
    generator = torch.Generator().manual_seed(1)
    model = mlp(MLPOptions(width=512, activation=activation), (40,), 10, generator)
    return model, Batch(torch.randn(32, 40, generator=generator), torch.randint(10, (32,), generator=generator))


def sure(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of outputs so far apart that 1 - p, which δ is made of, is lost where p is rounded to three digits."""
    return cross_entropy(outputs + 8 * F.one_hot(targets, 10), targets)


def output_of(use: Use, dtype: torch.dtype) -> Tensor:
    """s, in the precision that autocast gives it."""
    with torch.autocast("cpu", dtype):
        return use.call(primal_of)


def derivative(model: nn.Sequential, outputs: dict[str, Tensor], guesses: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Σ_i ⟨g_i, y_i⟩ [batch, K] in float64, each g_i by the chain rule where the pass was: at its own s_i."""
    s = {site: value.double().requires_grad_() for site, value in outputs.items()}
    last = list(s)[-1]
    g = {last: torch.autograd.grad(sure(s[last], targets).mean(), s[last])[0]}
    layers = [name for name, _ in model.named_children()]
    for site, above in reversed(list(pairwise(s))):
        activation = model[layers.index(site) + 1](s[site])
        weight = model.get_parameter(f"{above}.weight").detach().double()
        (g[site],) = torch.autograd.grad(activation, s[site], g[above] @ weight)
    return torch.stack([(guesses[site].double() @ g[site].unsqueeze(2)).squeeze(2) for site in s]).sum(0)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-2), (torch.float16, 1.25e-3)], ids=str)
@pytest.mark.parametrize(
    ("method", "activation", "options"),
    [
        *((method, "relu", {}) for method in GUESSES),
        ("activation-perturbation", "gelu", {}),
        ("activation-perturbation", "relu", {"tangents": 4}),
        ("wt", "gelu", {"tangents": 4, "combine": "projection", "tangent_chunk": 3}),
        ("wperp", "relu", {"tangents": 4, "combine": "orthogonal", "solver": "shared"}),
    ],
)
def test_the_arithmetic_of_every_directional_derivative_keeps_two_digits_at_width_512(
    method: str, activation: str, options: dict[str, Any], dtype: torch.dtype, bound: float, monkeypatch: Any
) -> None:
    """‖δ - δ'‖ / ‖δ'‖, δ' the derivative of the network where the pass was, along the guesses drawn. The gradients that
    δ makes of them have float32's digits."""
    model, batch = at_width_512(activation)
    entry = load_registry().method(method)[1]
    estimator = make_estimator(entry.load()(entry.options(**options)), entry.options(**options), load_registry())
    sites = estimator.bind(model, batch.inputs[:2]).sites
    passes: list[tuple[Step, Derivatives]] = []
    guesses: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    derivatives = Step.derivatives

    def watched(step: Step, *arguments: Any) -> Derivatives:
        passes.append((step, derivatives(step, *arguments)))
        with full_precision(batch.inputs):
            drawn = {site: joined(some).all() for site, some in step.draws.items()}
        guesses.update({site: y.transpose(0, 1).clone() for site, y in drawn.items()})
        outputs.update({site: output_of(seen.use, dtype) for site, seen in step.seen.items()})
        inputs.update({site: seen.use.x for site, seen in step.seen.items()})  # which gradients let go
        return passes[0][1]

    monkeypatch.setattr(Step, "derivatives", watched)
    found = LowPrecision(estimator, dtype).estimate(model, sure, batch, RNG)
    assert set(outputs) == set(sites)
    assert {s.dtype for s in outputs.values()} == {dtype}
    expected = derivative(model, outputs, guesses, batch.targets)
    assert found.directional_derivative is not None
    delta = found.directional_derivative.view_as(expected).double()
    assert float((delta - expected).norm()) < bound * float(expected.norm())
    for site, y in guesses.items():
        guess = (passes[0][1].coefficients.double().unsqueeze(1) @ y.double()).squeeze(1)
        gradient = guess.T @ inputs[site].double()
        error = (found.gradients[f"{site}.weight"].double() - gradient).norm()
        assert float(error) < 1e-5 * float(gradient.norm())


class Watched(Wrapped):
    """W̃⊥ that keeps its guesses, and sees to it that it is left in float32."""

    def __init__(self) -> None:
        super().__init__(orthogonal(OrthogonalOptions(k=10, solver="shared")))
        self.seen: dict[str, Tensor] = {}

    def prepare(self, layer: Layer, memory: Memory) -> object:
        assert layer.next_weight is not None
        assert (layer.next_weight @ layer.next_weight.T).dtype == torch.float32
        return super().prepare(layer, memory)

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: object) -> LinearMap:
        assert isinstance(upstream, LinearUpstream)
        assert upstream.slope.dtype == torch.float32
        return super().linearize(layer, upstream, prepared)

    def mapped(self, layer: Layer, linear: LinearMap, z: Tensor) -> Tensor:
        assert layer.output is not None
        assert {z.dtype, (z.T @ z).dtype, layer.output.dtype} == {torch.float32}
        self.seen[layer.name] = linear.map(z)
        return self.seen[layer.name].clone()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-2), (torch.float16, 2.5e-3)])
def test_the_directional_derivative_keeps_two_digits_at_width_512(dtype: torch.dtype, bound: float) -> None:
    """‖δ - δ'‖ / ‖δ'‖ over a batch, where δ' is that of the guesses drawn, in float64 by reverse mode."""
    generator = torch.Generator().manual_seed(1)
    model = mlp(MLPOptions(width=512), (40,), 10, generator)
    batch = Batch(torch.randn(256, 40, generator=generator), torch.randint(10, (256,), generator=generator))
    guess = Watched()
    estimator = LowPrecision(GuessEstimator(guess), dtype)
    sites = estimator.bind(model, batch.inputs[:2]).sites
    outputs: list[torch.dtype] = []
    handle = model[-1].register_forward_hook(lambda *arguments: outputs.append(arguments[2].dtype))
    found = estimator.estimate(model, cross_entropy, batch, RNG)
    handle.remove()
    assert outputs == [dtype]
    delta = found.directional_derivative
    assert delta is not None
    assert {delta.dtype, found.losses.dtype, *(g.dtype for g in found.gradients.values())} == {torch.float32}
    guesses = guess.seen | {sites[-1]: RNG.normal("guess", sites[-1], (256, 10), batch.inputs)}
    wide = copy.deepcopy(model).double()
    true = true_gradients(wide, Batch(batch.inputs.double(), batch.targets), sites)
    expected = torch.stack([(true[site] * guesses[site].double()).sum(1) for site in sites]).sum(0)
    assert float((delta.double() - expected).norm() / expected.norm()) < bound


def compared(method: str, network: tuple[nn.Module, Batch], **options: Any) -> None:
    """The method in bfloat16 against itself in float32."""
    model, batch = network[0].float(), Batch(network[1].inputs.float(), network[1].targets)
    kind, entry = load_registry().method(method)
    made = entry.load()(entry.options(**options))
    estimator = made if kind == "estimator" else make_estimator(made, entry.options(**options), load_registry())
    estimator.bind(model, batch.inputs)
    full = estimator.estimate(model, cross_entropy, batch, RNG)
    low = LowPrecision(estimator, torch.bfloat16).estimate(model, cross_entropy, batch, RNG)
    pairs = [(low.losses, full.losses), *((low.gradients[name], g) for name, g in full.gradients.items())]
    for found, expected in pairs:
        assert found.dtype == torch.float32
        assert float((found - expected).norm()) <= 0.1 * float(expected.norm())
    assert any(not torch.equal(found, expected) for found, expected in pairs)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_computes_its_network_in_bfloat16(method: str) -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    options: dict[str, Any] = {"k": 2} if "k" in load_registry().method(method)[1].options.model_fields else {}
    if method == "sofo":  # with more directions it divides by curvature that rounding reaches
        options = {"tangents": 2}
    compared(method, (model, Batch(torch.randn(12, 6), torch.randint(3, (12,)))), **options)


@pytest.mark.parametrize(
    ("method", "network", "options"),
    [
        ("wt", "attention", {}),
        ("wt", "convolutions-1d", {"tangents": 2}),
        ("activation-perturbation", "residual", {"tangents": 3, "combine": "orthogonal", "memory": "replay"}),
        ("weight-perturbation", "convolutions-2d", {"tangents": 2}),
        ("weight-perturbation", "attention", {"tangents": 2}),
    ],
)
def test_any_network(method: str, network: str, options: dict[str, Any]) -> None:
    compared(method, any_network(network, 8), **options)


def test_several_tangents_after_a_layer_that_autocast_leaves_in_float32() -> None:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    compared("activation-perturbation", (model, Batch(torch.randn(12, 6), torch.randint(3, (12,)))), tangents=2)


def test_what_a_device_has() -> None:
    cpu = torch.device("cpu")
    assert lacks(cpu, torch.bfloat16) is None
    assert lacks(cpu, torch.int8) == "torch.autocast computes in torch.float32 there"
