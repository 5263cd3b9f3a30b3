"""The network in fewer bits, held to float64 and to float32."""

import copy
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from networks import any_network, cross_entropy
from networks import site_gradients as true_gradients
from torch import Tensor, nn

from fgcli.extend.registry import load_registry
from fgcli.gradient.dual import hooks
from fgcli.gradient.estimator import Batch
from fgcli.gradient.forward_gradient import DualPass, ForwardGradient
from fgcli.gradient.precision import LowPrecision, full_precision, lacks
from fgcli.gradient.randomness import Streams
from fgcli.guesses.driven import driven
from fgcli.guesses.options import OrthogonalOptions
from fgcli.guesses.orthogonal import orthogonal
from fgcli.models.mlp import mlp
from fgcli.models.options import MLPOptions

RNG = Streams(3).at(7)
GUESSES = sorted(load_registry().names("guess method"))
METHODS = {*GUESSES, *load_registry().names("estimator")}
METHODS -= {"wperp-bottom"}  # its basis is an SVD's of singular values of 0: a bit of rounding makes it another


@cache
def at_width_512(activation: Any) -> tuple[nn.Sequential, Batch]:
    generator = torch.Generator().manual_seed(1)
    model = mlp(MLPOptions(width=512, activation=activation), (40,), 10, generator)
    return model, Batch(torch.randn(32, 40, generator=generator), torch.randint(10, (32,), generator=generator))


def sure(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of outputs so far apart that 1 - p, which δ is made of, is lost where p is rounded to three digits."""
    return cross_entropy(outputs + 8 * F.one_hot(targets, 10), targets)


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
    estimator = driven(entry.load()(entry.options(**options)), entry.options(**options))
    modules = {site: model.get_submodule(site) for site in estimator.bind(model, batch.inputs[:2]).sites}
    passes: list[DualPass] = []
    guesses: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    dual_pass = estimator.dual_pass

    def watched(*arguments: Any) -> DualPass:
        passes.append(dual_pass(*arguments))
        with full_precision(batch.inputs):
            guesses.update({site: drawn.all().transpose(0, 1).clone() for site, drawn in passes[0].draws.items()})
        return passes[0]

    monkeypatch.setattr(estimator, "dual_pass", watched)
    with hooks(modules, lambda site, *call: outputs.update({site: call[2]})):
        found = LowPrecision(estimator, dtype).estimate(model, sure, batch, RNG)
    assert {s.dtype for s in outputs.values()} == {dtype}
    expected = derivative(model, outputs, guesses, batch.targets)
    assert found.directional_derivative is not None
    delta = found.directional_derivative.view_as(expected).double()
    assert float((delta - expected).norm()) < bound * float(expected.norm())
    for site, y in guesses.items():
        guess = (passes[0].coefficients.double().unsqueeze(1) @ y.double()).squeeze(1)
        gradient = guess.T @ passes[0].inputs[site].double()
        error = (found.gradients[f"{site}.weight"].double() - gradient).norm()
        assert float(error) < 1e-5 * float(gradient.norm())


class Watched:
    """W̃⊥ that keeps its guesses, and sees to it that it is left in float32."""

    needs: ClassVar[Any] = "matrix"

    def __init__(self) -> None:
        self.method, self.seen = orthogonal(OrthogonalOptions(k=10, solver="shared")), dict[str, Tensor]()

    def prepare(self, site: Any) -> Any:
        assert (site.next_weight @ site.next_weight.T).dtype == torch.float32
        return self.method.prepare(site)

    def noise_dim(self, site: Any, prepared: Any) -> int:
        return self.method.noise_dim(site, prepared)

    def map(self, site: Any, prepared: Any, z: Tensor) -> Tensor:
        assert {z.dtype, (z.T @ z).dtype, site.slope.dtype, site.output.dtype} == {torch.float32}
        self.seen[site.name] = self.method.map(site, prepared, z)
        return self.seen[site.name].clone()


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 1e-2), (torch.float16, 2.5e-3)])
def test_the_directional_derivative_keeps_two_digits_at_width_512(dtype: torch.dtype, bound: float) -> None:
    """‖δ - δ'‖ / ‖δ'‖ over a batch, where δ' is that of the guesses drawn, in float64 by reverse mode."""
    generator = torch.Generator().manual_seed(1)
    model = mlp(MLPOptions(width=512), (40,), 10, generator)
    batch = Batch(torch.randn(256, 40, generator=generator), torch.randint(10, (256,), generator=generator))
    guess = Watched()
    estimator = LowPrecision(ForwardGradient(guess), dtype)
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
    estimator = made if kind == "estimator" else driven(made, entry.options(**options))
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
