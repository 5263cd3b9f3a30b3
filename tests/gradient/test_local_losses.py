"""Local losses: each block has its own head's gradient, and each unit the derivative of the parts that it reaches."""

from typing import Any

import pytest
import torch
from bases import summed_over_a_basis
from networks import cross_entropy
from torch import Tensor, nn

from fgcli.errors import UsageError
from fgcli.extend.options import EngineOptions, Options
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.feedback import Feedback
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.local_losses import LocalLosses
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.backprop import Backprop
from fgcli.methods.feedback import DirectFeedback
from fgcli.models.local_heads import Projection, with_local_losses
from fgcli.models.mixer import Mixer
from fgcli.models.mlp import mlp
from fgcli.models.options import MixerOptions, MLPOptions

RNG = Streams(3).at(7)
WIDTH, GROUPS, PATCHES, CLASSES = 8, 2, 4, 3


def mlp_case() -> tuple[LocalLosses, Batch]:
    generator = torch.Generator().manual_seed(0)
    model = mlp(MLPOptions(width=6, activation="tanh"), (5,), 3, generator)
    model = with_local_losses(model, 1, "projection", 1, torch.zeros(2, 5), 3, generator).double()
    x = torch.randn(4, 5, dtype=torch.double, generator=generator)
    return model, Batch(x, torch.randint(3, (4,), generator=generator))


def mixer_case() -> tuple[LocalLosses, Batch]:
    generator = torch.Generator().manual_seed(0)
    model: nn.Module = Mixer(MixerOptions(width=WIDTH, depth=2, groups=GROUPS, patch=2), (1, 4, 4), CLASSES, generator)
    model = with_local_losses(model, 1, "group", GROUPS, torch.zeros(2, 1, 4, 4), CLASSES, generator).double()
    x = torch.randn(3, 1, 4, 4, dtype=torch.double, generator=generator)
    return model, Batch(x, torch.randint(CLASSES, (3,), generator=generator))


def exact(model: LocalLosses, batch: Batch) -> dict[str, Tensor]:
    return Backprop(Options()).estimate(model, model.loss_of(cross_entropy), batch, RNG).gradients


def test_each_block_is_trained_by_its_own_loss_alone() -> None:
    """The objective's gradient, by blocks: autograd of one head's loss on the block's input as a constant."""
    model, batch = mlp_case()
    found, x = exact(model, batch), batch.inputs
    layers: dict[str, Any] = dict(model.plain.named_children())
    for number in (1, 2, 3):
        weight = layers[f"hidden{number}"].weight
        h = torch.tanh(x @ weight.T)
        local_head: Any = model.heads[f"activation{number}"]
        head = local_head.weight  # Mono-Forward's M
        loss = cross_entropy(h @ head.T, batch.targets).mean()
        expected = torch.autograd.grad(loss, [weight, head])
        torch.testing.assert_close(found[f"hidden{number}.weight"], expected[0])
        torch.testing.assert_close(found[f"local_heads.activation{number}.weight"], expected[1])
        x = h.detach()
    output = layers["output"].weight
    (expected,) = torch.autograd.grad(cross_entropy(x @ output.T, batch.targets).mean(), output)
    torch.testing.assert_close(found["output.weight"], expected)


def test_in_eval_mode_it_is_the_model() -> None:
    model, batch = mlp_case()
    model.eval()
    outputs = model.plain(batch.inputs)
    torch.testing.assert_close(model(batch.inputs), outputs)
    loss = model.loss_of(cross_entropy)
    torch.testing.assert_close(loss(outputs, batch.targets), cross_entropy(outputs, batch.targets))


def test_the_models_own_mode_is_that_of_the_whole_whoever_sets_it() -> None:
    model, batch = mlp_case()
    model.eval()
    for module in model.modules():  # which the model itself is not among
        module.training = True
    model(batch.inputs)
    assert model.plain.training


def test_feedback_within_a_block_is_exact_where_the_head_is_next() -> None:
    model, batch = mlp_case()
    rule = DirectFeedback(EngineOptions(feedback="direct"))
    estimator = GuessEstimator(Isotropic(), feedback=Feedback(rule))
    estimator.bind(model, batch.inputs)
    found = estimator.estimate(model, model.loss_of(cross_entropy), batch, RNG).gradients
    torch.testing.assert_close(found, exact(model, batch))


def test_a_group_head_is_a_linear_layer_on_the_mean_over_positions() -> None:
    model, _ = mixer_case()
    head: Any = model.heads["blocks.1"]
    a = torch.randn(3, PATCHES, WIDTH, dtype=torch.double)
    size = WIDTH // GROUPS
    weight = head.weight.view(GROUPS, CLASSES, size).movedim(0, 1).reshape(CLASSES, WIDTH)
    parts = head(a)
    assert parts.shape == (3, PATCHES * GROUPS, CLASSES)
    torch.testing.assert_close(parts.sum(1), a.mean(1) @ weight.T)
    part = a[:, 1, size:] @ weight[:, size:].T / PATCHES  # of position 1, group 1
    torch.testing.assert_close(parts.unflatten(1, (PATCHES, GROUPS))[:, 1, 1], part)


def replicated(model: LocalLosses, batch: Batch, y: dict[str, Tensor]) -> dict[str, Tensor]:
    """Ren et al.'s estimate at each site by hand: y ∘ δ, δ[n, p, g] the part of the tangent of its block's loss that
    passes position p and group g of the head's input. By autograd, with 0 added to each site's output."""
    added: dict[str, Tensor] = {}

    def hook_of(name: str) -> Any:
        def add(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
            added[name] = torch.zeros_like(output).requires_grad_()
            return output + added[name]

        return add

    modules = dict(model.plain.named_modules())
    handles = [modules[name].register_forward_hook(hook_of(name)) for name in y if name in modules]
    by_head = model(batch.inputs).unflatten(1, (-1, CLASSES)).split(model.sizes, 1)
    for handle in handles:
        handle.remove()
    found = {}
    for number, z in enumerate(by_head[:-1]):
        logits = z.sum(1)
        (e,) = torch.autograd.grad(cross_entropy(logits, batch.targets).mean(), logits, retain_graph=True)
        own = [name for name in added if name.startswith(f"blocks.{number}.")]
        delta = torch.zeros(3, PATCHES * GROUPS, dtype=torch.double)
        for part in range(PATCHES * GROUPS):
            gradients = torch.autograd.grad((e.detach() * z[:, part]).sum(), [added[n] for n in own], retain_graph=True)
            for name, gradient in zip(own, gradients, strict=True):
                delta[:, part] += (gradient * y[name]).flatten(1).sum(1)
        delta = delta.unflatten(1, (PATCHES, GROUPS))
        for name in own:
            kind = name.rpartition(".")[2]
            if kind == "channels":  # [n, patches, width]: the normalisation over the channels joins the groups
                found[name] = delta.sum(2)[:, :, None] * y[name]
            elif kind == "tokens":  # [n, width, patches]
                found[name] = delta.sum(2)[:, None, :] * y[name]
            else:  # group: [n, width, patches]
                found[name] = delta.mT.repeat_interleave(WIDTH // GROUPS, 1) * y[name]
    return found


def test_the_mixers_units_take_the_derivative_of_the_positions_and_groups_that_they_reach() -> None:
    model, batch = mixer_case()
    estimator = GuessEstimator(Isotropic(), output_gradient="exact")
    estimator.bind(model, batch.inputs)
    y, found = estimator.drawn(model, model.loss_of(cross_entropy), batch, RNG)
    expected = replicated(model, batch, y)
    assert set(expected) == {f"blocks.{n}.{kind}" for n in (0, 1) for kind in ("tokens", "channels", "group")} - {
        "blocks.0.tokens"
    }
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one)


def test_the_sum_over_a_basis_of_a_sites_tangents_is_its_exact_gradient() -> None:
    """Unbiased, exactly: Σ_j δ(e_j) ∘ e_j = g for every unit, though each takes a part of δ."""
    model, batch = mixer_case()
    found, exact_gradient = summed_over_a_basis(model, model.loss_of(cross_entropy), batch, "blocks.1.channels")
    torch.testing.assert_close(found, exact_gradient)


class LaterMixed(nn.Module):
    """A layer for each position, then one that mixes the positions, with weights of 0 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 6)
        self.mixing = nn.Linear(4, 4, bias=False)
        self.end = nn.Identity()
        self.output = nn.Linear(24, 2)
        nn.init.zeros_(self.mixing.weight)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.layer(x))
        return self.output(self.end(h + self.mixing(h.mT).mT).flatten(1))


def test_a_weight_of_0_that_mixes_positions_later_is_not_taken_for_none() -> None:
    generator = torch.Generator().manual_seed(0)
    model = with_local_losses(LaterMixed(), "end", "group", 1, torch.zeros(2, 4, 3), 2, generator)
    estimator = GuessEstimator(Isotropic())
    estimator.bind(model, torch.randn(4, 4, 3))
    assert estimator._locality is not None
    reach = {name: one.positions for name, one in estimator._locality.reach.items()}
    assert reach == {"layer": None, "mixing": 1, "local_heads.end": None, "output": None}


def test_replayed_and_with_several_tangents_in_chunks_the_estimate_is_the_same() -> None:
    model, batch = mixer_case()
    loss, estimates = model.loss_of(cross_entropy), []
    for memory, chunk in (("store", None), ("replay", None), ("store", 2)):
        tangents = Tangents(3, chunk=chunk)
        estimator = GuessEstimator(Isotropic(), memory=memory, tangents=tangents, output_gradient="exact")  # pyright: ignore
        estimator.bind(model, batch.inputs)
        estimates.append(estimator.estimate(model, loss, batch, RNG).gradients)
    torch.testing.assert_close(estimates[1], estimates[0])
    torch.testing.assert_close(estimates[2], estimates[0])


def test_what_cannot_be_is_refused() -> None:
    model, batch = mlp_case()
    estimator = GuessEstimator(Isotropic(), tangents=Tangents(2, "projection"))
    with pytest.raises(OptionRefused, match="combine is projection; with local losses it must be mean"):
        estimator.bind(model, batch.inputs)
    twice = nn.Sequential(shared := nn.Linear(3, 3), nn.Tanh(), shared, nn.Linear(3, 2))
    head = Projection((3,), 2, torch.Generator(), tokens=False)
    with pytest.raises(ModelRefused, match="module '0' has a local loss and is called twice"):
        LocalLosses(twice, {"0": head}, 2)(torch.zeros(2, 3))
    plain, two = mlp(MLPOptions(width=6), (5,), 3, torch.Generator()), torch.zeros(2, 5)
    with pytest.raises(UsageError, match="names output, which gives the model's own output: the model's loss is there"):
        with_local_losses(plain, "activation1,output", "projection", 1, two, 3, torch.Generator())
