"""The models that are more than a chain: shapes, initialisation, formulas, and W̃ at every site."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.diagnostics.gradients import site_gradients
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.gradient.estimator import Batch
from fgcli.gradient.look import look
from fgcli.gradient.upstream import CutNetwork
from fgcli.models.mixer import LocalMixer
from fgcli.models.options import MixerOptions, ResMLPOptions, TransformerOptions
from fgcli.models.resmlp import ResMLP
from fgcli.models.transformer import Transformer
from fgcli.training.losses import cross_entropy

NAMES = ["convnet", "mixer", "mixer-local", "resmlp", "resnet-tiny", "transformer-tiny"]
SHAPES = [(8,), (2, 8), (1, 8, 4)]


def make(name: str, shape: tuple[int, ...], seed: int = 0) -> nn.Module:
    entry = load_registry().entry("model", name)
    groups = {"groups": 2} if name == "mixer" else {}  # two channels alone would be normalised to ± 1
    options = entry.options.model_validate({"width": 8, "depth": 2, "bias": True} | groups)
    return entry.load()(options, shape, 5, torch.Generator().manual_seed(seed))


def inputs(shape: tuple[int, ...], size: int = 3) -> Tensor:
    return torch.randn(size, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_alone_decides_and_the_global_one_is_untouched(name: str) -> None:
    before = torch.get_rng_state()
    first, second, other = make(name, (8,)), make(name, (8,)), make(name, (8,), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for (key, a), b, c in zip(first.named_parameters(), second.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert "norm" in key or not torch.equal(a, c)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_every_gradient_lies_in_the_image_of_its_upstream_jacobian(name: str, shape: tuple[int, ...]) -> None:
    model = make(name, shape).double()
    batch = Batch(inputs(shape), torch.tensor([0, 3, 1]))
    assert model.eval()(batch.inputs).shape == (3, 5)
    model.train()
    network = look(model, batch.inputs)
    weights = {name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)}
    assert {site.name for site in network.guessed} == weights
    true = site_gradients(model, network, cross_entropy, batch)
    cut = CutNetwork(model, batch.inputs, network)
    for site in network.guessed:
        g, dense = true[site.name].flatten(1).unsqueeze(-1), cut.upstream(site).dense()
        assert g.any()
        torch.testing.assert_close(torch.linalg.pinv(dense) @ (dense @ g), g, rtol=1e-7, atol=1e-10)


def test_resmlp_is_its_formula() -> None:
    model = ResMLP(ResMLPOptions(width=6, depth=2, activation="tanh"), (4,), 3, torch.Generator().manual_seed(0))
    weights = {name: value.float() for name, value in model.named_parameters()}
    x = inputs((4,)).float() @ weights["enter.weight"].T
    for block in ("blocks.0", "blocks.1"):
        h = F.layer_norm(x, (6,)) @ weights[f"{block}.inner.weight"].T
        x = x + torch.tanh(h) @ weights[f"{block}.outer.weight"].T
    expected = F.layer_norm(x, (6,)) @ weights["output.weight"].T
    torch.testing.assert_close(model(inputs((4,)).float()), expected)


def test_the_transformers_attention_is_softmax_of_inner_products_of_patches_with_positions() -> None:
    options = TransformerOptions(width=4, depth=1, heads=2, patch=2)
    model = Transformer(options, (6,), 3, torch.Generator().manual_seed(0)).double()
    x = inputs((6,))
    tokens = model.embed(x.unflatten(1, (3, 2)))
    for place in range(3):
        angles = [place / 10_000 ** (column // 2 * 2 / 4) for column in range(4)]
        tokens[:, place] += torch.tensor([math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(angles)])
    h = F.layer_norm(tokens, (4,)) @ dict(model.named_parameters())["blocks.0.qkv.weight"].T
    attended = torch.zeros_like(tokens)
    for head in range(2):
        q, k, v = (h[..., 4 * part + 2 * head : 4 * part + 2 * head + 2] for part in range(3))
        attended[..., 2 * head : 2 * head + 2] = (q @ k.mT / math.sqrt(2)).softmax(2) @ v
    project, inner, outer = (model.get_submodule(f"blocks.0.{name}") for name in ("attended", "inner", "outer"))
    tokens = tokens + project(attended)
    tokens = tokens + outer(F.gelu(inner(F.layer_norm(tokens, (4,)))))
    expected = model.output(F.layer_norm(tokens, (4,)).mean(1))
    torch.testing.assert_close(model(x), expected, rtol=1e-6, atol=1e-6)


def test_the_mixers_local_losses_reach_their_own_block_alone() -> None:
    model = LocalMixer(MixerOptions(width=8, depth=3, patch=2), (8,), 5, torch.Generator().manual_seed(0)).double()
    logits = model(inputs((8,)))
    assert logits.shape == (3, 5, 3 * 4)
    torch.testing.assert_close(model.eval()(inputs((8,))), logits[..., 8:].mean(2))
    targets = torch.tensor([0, 3, 1])
    expected = torch.stack([F.cross_entropy(one, targets, reduction="none") for one in logits.unbind(2)]).mean(0)
    torch.testing.assert_close(cross_entropy(logits, targets), expected)
    for number, part in enumerate(logits.split(4, 2)):
        gradients = torch.autograd.grad(part.sum(), list(model.parameters()), retain_graph=True, allow_unused=True)
        reached = {
            name.split(".")[1]
            for (name, _), g in zip(model.named_parameters(), gradients, strict=True)
            if g is not None and g.any()
        }
        assert reached == {str(number)}


@pytest.mark.parametrize(
    ("name", "options", "shape", "message"),
    [
        ("transformer-tiny", {"heads": 3}, (8,), "model option heads is 3; it must divide the width, 32"),
        ("transformer-tiny", {"patch": 3}, (1, 8, 6), r"model option patch is 3; it must divide the inputs' \[8, 6\]"),
        ("mixer-local", {"groups": 5}, (8,), "model option groups is 5; it must divide the width, 64"),
        ("resnet-tiny", {}, (1, 2, 3, 4), r"inputs have shape \[1, 2, 3, 4\]; this model takes \[length\]"),
    ],
)
def test_refused(name: str, options: dict[str, int], shape: tuple[int, ...], message: str) -> None:
    entry = load_registry().entry("model", name)
    with pytest.raises(UsageError, match=message):
        entry.load()(entry.options.model_validate(options), shape, 5, torch.Generator())
