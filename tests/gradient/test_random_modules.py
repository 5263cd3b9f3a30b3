"""Random small module trees: every method's gradient is that of `backward`, or the model is refused.

Aliases, tied weights, frozen parts, embeddings, residual sums, branches on values, elementwise parameters,
convolutions, normalisation, dropout. FG_EXAMPLES sets the number of examples.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from exact import RNG, backward, dimensions, drawing, smooth
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from networks import matrix_of
from torch import Tensor, nn

from fgcli.diagnostics.gradients import site_gradients
from fgcli.extend.options import GuessOptions
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.guess import GuessMethod, Isotropic
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.randomness import layers_again
from fgcli.gradient.sites import Network
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.uses import Pass, Use, run
from fgcli.methods.newton_schulz import newton_schulz
from fgcli.methods.options import (
    NewtonSchulzOptions,
    OrthogonalOptions,
    PreconditionedOptions,
    TransposeOptions,
    WeightPerturbationOptions,
)
from fgcli.methods.orthogonal import orthogonal
from fgcli.methods.perturbation import MaskedActivationPerturbation
from fgcli.methods.preconditioned import preconditioned
from fgcli.methods.transpose import Transpose
from fgcli.methods.weight_perturbation import WeightPerturbation

WIDTH, TOKENS, SAMPLES = 3, 2, 3
EXAMPLES = int(os.environ.get("FG_EXAMPLES", "50"))
METHODS: dict[str, Callable[[], GuessMethod]] = {
    "isotropic": Isotropic,
    "masked": lambda: MaskedActivationPerturbation(GuessOptions()),
    "transpose": lambda: Transpose(TransposeOptions()),
    "orthogonal": lambda: orthogonal(OrthogonalOptions(k="rank")),
    "krylov": lambda: orthogonal(OrthogonalOptions(k="rank", solver="krylov")),
    "shared": lambda: orthogonal(OrthogonalOptions(k=2, solver="shared")),
    "mean": lambda: orthogonal(OrthogonalOptions(k=2, solver="mean")),
    "newton-schulz": lambda: newton_schulz(NewtonSchulzOptions(k=2)),
    "preconditioned": lambda: preconditioned(PreconditionedOptions()),
}
EXACT = {"isotropic", "masked", "orthogonal", "krylov", "preconditioned"}
"""Whose A Aᵀ leaves g as it is."""


@dataclass(frozen=True)
class Block:
    """What a block of the tree is."""

    kind: str
    own: int
    """Which of the tree's layers it uses: blocks of the same number share one."""
    inner: tuple["Block", ...] = ()
    activation: str = "tanh"


KINDS = [
    "linear", "linear", "functional", "alias", "matmul", "transposed", "norm", "gain", "bias", "dropout", "conv",
    "lookup", "in place", "detached", "batch", "lstm", "frozen",
]  # fmt: skip
ACTIVATIONS = ["tanh", "relu", "gelu", "none"]
blocks = st.builds(Block, st.sampled_from(KINDS), st.integers(0, 2), activation=st.sampled_from(ACTIVATIONS))
trees = st.recursive(
    st.lists(blocks, min_size=1, max_size=3).map(tuple),
    lambda inner: st.lists(
        st.one_of(
            blocks, st.builds(Block, st.sampled_from(["residual", "branch", "several"]), st.integers(0, 2), inner)
        ),
        min_size=1,
        max_size=3,
    ).map(tuple),
    max_leaves=3,
)


class Tree(nn.Module):
    """A model of such blocks on [batch, (tokens,) width], its inputs numbers or what a table has at ids."""

    def __init__(self, tree: tuple[Block, ...], start: str, tied: bool, frozen: int | None, tokens: bool) -> None:
        super().__init__()
        self.tree, self.start, self.tokens = tree, start, tokens
        self.table = nn.Embedding(4, WIDTH, padding_idx=0 if start == "padded" else None)
        self.layers = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(3)])
        self.norm, self.lstm = nn.LayerNorm(WIDTH, 0.5), nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.conv, self.batch = nn.Conv1d(WIDTH, WIDTH, 1), nn.BatchNorm1d(WIDTH, 0.5)
        self.gain, self.bias = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(1, WIDTH))
        self.head = nn.Linear(WIDTH, 4)
        if tied:
            self.head.weight = self.table.weight
        self.alias = self.layers[1]
        if frozen is not None:
            self.layers[frozen].requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.start == "numbers" else self.table(x)
        return self.head(self.passed(self.tree, h))

    def passed(self, tree: tuple[Block, ...], h: Tensor) -> Tensor:
        for block in tree:
            h = self.block(block, h)
        return h

    def block(self, block: Block, h: Tensor) -> Tensor:
        layer: Any = self.layers[block.own]
        match block.kind:
            case "residual":
                return h + self.passed(block.inner, h)
            case "branch":
                return self.passed(block.inner, h) if bool(h.detach().sum() > 0) else torch.sin(h)
            case "several":
                return torch.stack([self.passed(block.inner, h), h]).mean(0)
            case "linear":
                h = layer(h)
            case "functional":
                h = F.linear(h, weight=layer.weight)
            case "alias":
                h = self.alias(h)
            case "matmul":
                h = h @ layer.weight
            case "transposed":
                h = torch.einsum("...i,ij->...j", h, layer.weight.T) + layer.bias
            case "norm":
                h = self.norm(h)
            case "gain":
                h = h * self.gain
            case "bias":
                h = h + self.bias
            case "dropout":
                h = F.dropout(h, 0.3)
            case "conv":
                h = (
                    self.conv(h.transpose(1, 2)).transpose(1, 2)
                    if self.tokens
                    else self.conv(h.unsqueeze(2)).squeeze(2)
                )
            case "lookup":
                h = h + (self.table(torch.arange(TOKENS)) if self.tokens else self.table.weight[1])
            case "in place":
                g = layer(h)
                h = g * 1
                h += g.sin()
                h[..., 0] *= 2
            case "detached":
                with torch.no_grad():
                    g = torch.sigmoid(layer(h))
                h = h * g
            case "batch":
                h = self.batch(h.transpose(1, 2)).transpose(1, 2) if self.tokens else self.batch(h)
            case "lstm":
                h = self.lstm(h)[0] if self.tokens else self.lstm(h.unsqueeze(1))[0].squeeze(1)
            case "frozen":
                h = F.linear(h, layer.weight.detach())
        return h if block.activation == "none" else getattr(F, block.activation)(h)


def per_sample(outputs: Tensor, _: Any) -> Tensor:
    entries = torch.arange(outputs[0].numel(), dtype=outputs.dtype)
    return torch.sin(outputs.flatten(1) + entries.cos()).sum(1)


class Locally(Pass):
    """A pass in which each use is attached to its own parameters alone."""

    def __init__(self) -> None:
        self.given: dict[str, list[Tensor]] = {}

    def visit(self, use: Use) -> Any:
        again = layers_again(torch.device("cpu"))
        self.given[use.name] = leaves(use.call(_detached, weights=lambda value: value))
        again()
        outputs = use.call(_detached)
        return rebuilt(outputs, [one.clone() for one in leaves(outputs)])


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def of_uses(model: nn.Module, network: Network, inputs: Tensor, g: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the uses' own vjps make of gradients of their outputs, by parameter."""
    locally = Locally()
    with drawing():
        run(model, inputs, locally)
    total = torch.zeros(())
    for name, gradient in g.items():
        given = locally.given[name]
        parts = network.sites[name].natural(gradient, [one.shape for one in given])
        total = total + sum((one * part).sum() for one, part in zip(given, parts, strict=True))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(total, list(trained.values()), allow_unused=True, materialize_grads=True)
    return {name: one.to_dense() for name, one in zip(trained, found, strict=True)}


@contextmanager
def same_buffers(model: nn.Module) -> Iterator[None]:
    """Within it the forward may change buffers."""
    before = [one.clone() for one in model.buffers()]
    yield
    with torch.no_grad():
        for one, other in zip(model.buffers(), before, strict=True):
            one.copy_(other)


def held_to_backward(
    model: nn.Module, loss: Loss, batch: Batch, name: str, chunk: int | None, memory: Literal["store", "replay"]
) -> None:
    """The estimate with as many orthogonal tangents as the noise has dimensions: A Aᵀg, with nothing left to chance.

    Parameters that meet data elementwise, and sites without samples, are held to their own equation, (Σ δ) y.
    """
    probe = GuessEstimator(METHODS[name]())
    try:
        probe.bind(model, batch.inputs)
    except ModelRefused as refusal:
        if name not in MATRIX or "needs the upstream Jacobian as a matrix" not in str(refusal):
            raise
        event("refused")
        return
    with same_buffers(model), drawing():
        probe.estimate(model, loss, batch, RNG)  # it may take another way than the look
    alone = [site.name for site in probe.bound.guessed if not (site.has_samples or probe.bound.mixes)]
    with same_buffers(model):
        dims = dimensions(probe, model, batch)
    number = sum(dim for site, dim in dims.items() if site not in alone)
    estimator = GuessEstimator(METHODS[name](), tangents=Tangents(number, "orthogonal", chunk=chunk), memory=memory)
    estimator._take_up(model, probe.bound, batch.inputs)  # which may have met a branch that no first look takes
    with same_buffers(model), drawing():
        try:
            found = estimator.estimate(model, loss, batch, RNG)
        except ModelRefused as refusal:  # a branch on a sum that is 0 but for rounding
            if "another way when it is run again" not in str(refusal):
                raise
            event("refused")
            return
    network = estimator.bound
    with same_buffers(model):
        exact = backward(model, loss, batch)
        with drawing():
            g = {key: one for key, one in site_gradients(model, network, loss, batch).items() if key in dims}
        with drawing():
            maps = estimator.linear_maps(model, batch.inputs, RNG.step)
        true = of_uses(model, network, batch.inputs, g)
    elementwise = {key: exact[key] - true[key] for key in exact}
    perturbed = estimator._perturbed
    for key, rest in elementwise.items():
        if key not in perturbed:
            torch.testing.assert_close(
                rest, torch.zeros_like(rest), rtol=0, atol=1e-9, msg=f"{key} is not accounted for"
            )
    directions = estimator._directions(model, RNG)
    along = sum(float((elementwise[key] * v).sum()) for key, v in directions.items())
    y = {key: maps[key].map(RNG.normal("guess", key, (1, maps[key].noise_dim), g[key])) for key in alone}
    along += sum(float((g[key] * one).sum()) for key, one in y.items())
    guess = {}
    for key, gradient in g.items():
        if key in alone:
            guess[key] = along * y[key]
            continue
        a = matrix_of(maps[key], len(gradient))
        flat = gradient.flatten(1).unsqueeze(2)
        image = (a @ (a.mT @ flat)).view(gradient.shape)
        if name in EXACT:
            torch.testing.assert_close(image, gradient, rtol=1e-5, atol=1e-8, msg=f"{name} at {key} is biased")
        guess[key] = image
    with same_buffers(model):
        expected = of_uses(model, network, batch.inputs, guess)
    for key, v in directions.items():
        expected[key] = expected[key] + along * v
    for key, value in expected.items():
        if key in found.gradients:
            torch.testing.assert_close(
                found.gradients[key], value, rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{name}, {key}: {m}"
            )
        else:
            assert not value.any(), f"{key} has no gradient"
    torch.testing.assert_close(found.losses.mean(), reference_loss(model, loss, batch))


def reference_loss(model: nn.Module, loss: Loss, batch: Batch) -> Tensor:
    with same_buffers(model), drawing(), torch.no_grad():
        return loss(model(batch.inputs), batch.targets).mean()


MATRIX = {"masked", "shared"}


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(
    tree=trees,
    start=st.sampled_from(["numbers", "numbers", "ids", "padded"]),
    tied=st.booleans(),
    frozen=st.sampled_from([None, 0, 1]),
    tokens=st.booleans(),
    seed=st.integers(0, 99),
    name=st.sampled_from(sorted(METHODS)),
    loss=st.sampled_from([smooth, per_sample]),
    chunk=st.sampled_from([None, 5]),
    memory=st.sampled_from(["store", "replay"]),
)
def test_gradients_are_those_of_backward_or_the_model_is_refused(
    tree: Any,
    start: str,
    tied: bool,
    frozen: int | None,
    tokens: bool,
    seed: int,
    name: str,
    loss: Loss,
    chunk: Any,
    memory: Any,
) -> None:
    torch.manual_seed(seed)
    model = Tree(tree, start, tied, frozen, tokens).double()
    shape = (SAMPLES, TOKENS) if tokens else (SAMPLES,)
    inputs = torch.randn(*shape, WIDTH, dtype=torch.float64) if start == "numbers" else torch.randint(4, shape)
    batch = Batch(inputs, None)
    held_to_backward(model, loss, batch, name, chunk, memory)
    perturbation = WeightPerturbation(WeightPerturbationOptions(memory=memory))
    exact = backward(model, loss, batch)
    perturbation.bind(model, batch.inputs)
    with drawing():
        delta = perturbation.estimate(model, loss, batch, RNG).directional_derivative
    along = sum((RNG.normal("weight", key, tuple(one.shape), one) * one).sum() for key, one in exact.items())
    assert delta is not None
    torch.testing.assert_close(delta.sum(), along, rtol=1e-8, atol=1e-10)
