"""Forward gradients along local gradients held to ⟨g, y⟩ y / ‖y‖² by autograd."""

from typing import Any

import pytest
import torch
from networks import cross_entropy
from torch import Tensor, nn

from fgcli.extend.options import Options
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.local_losses import LocalLosses
from fgcli.gradient.randomness import Streams
from fgcli.methods.backprop import Backprop
from fgcli.methods.local_gradient import LocalGradient
from fgcli.methods.options import LocalGradientOptions
from fgcli.models.convnet import convnet
from fgcli.models.local_heads import with_local_losses
from fgcli.models.options import ConvNetOptions

RNG = Streams(3).at(7)


def case() -> tuple[LocalLosses, Batch]:
    generator = torch.Generator().manual_seed(0)
    model: Any = convnet(ConvNetOptions(width=3, depth=3, activation="tanh", bias=True), (1, 8, 8), 4, generator)
    model = with_local_losses(model, 1, "projection", 1, torch.zeros(2, 1, 8, 8), 4, generator).double()
    x = torch.randn(5, 1, 8, 8, dtype=torch.double, generator=generator)
    return model, Batch(x, torch.randint(4, (5,), generator=generator))


@pytest.mark.parametrize("directions", ["blocks", "joint"])
def test_each_block_has_the_projection_of_its_gradient_onto_that_of_its_head(directions: Any) -> None:
    model, batch = case()
    estimator = LocalGradient(LocalGradientOptions(directions=directions))
    estimator.bind(model, batch.inputs)
    found = estimator.estimate(model, cross_entropy, batch, RNG)
    h: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}

    def keep(name: str, _: Any, output: Tensor) -> Tensor:
        whole[name] = output
        return output

    loss = cross_entropy(model.hooked(keep, (batch.inputs,)), batch.targets)
    torch.testing.assert_close(found.losses, loss.detach())
    g = dict(zip(whole, torch.autograd.grad(loss.mean(), list(whole.values())), strict=True))

    def cut(name: str, _: Any, output: Tensor) -> Tensor:
        h[name] = output
        return output.detach()

    model.hooked(cut, (batch.inputs,))
    y = {
        name: torch.autograd.grad(
            cross_entropy(model.heads[name](leaf := one.detach().requires_grad_()).sum(1), batch.targets).mean(), leaf
        )[0]
        for name, one in h.items()
    }
    inner = {name: (g[name] * y[name]).flatten(1).sum(1) for name in y}
    square = {name: y[name].square().flatten(1).sum(1) for name in y}
    if directions == "joint":
        inner, square = (dict.fromkeys(y, torch.stack([*one.values()]).sum(0)) for one in (inner, square))
    parameters = dict(model.plain.named_parameters())
    exact = Backprop(Options()).estimate(model, model.loss_of(cross_entropy), batch, RNG).gradients
    for name, one in h.items():
        estimate = y[name] * (inner[name] / square[name]).view(-1, *[1] * (one.dim() - 1))
        layer = {"activation": "conv"}.get(name[:-1], name[:-1]) + name[-1]
        for kind in ("weight", "bias"):
            key = f"{layer}.{kind}"
            (expected,) = torch.autograd.grad(one, [parameters[key]], estimate, retain_graph=True)
            torch.testing.assert_close(found.gradients[key], expected)
            assert (expected - exact[key]).norm() > 1e-3 * expected.norm()
    for key in ("output.weight", "local_heads.activation1.weight"):
        torch.testing.assert_close(found.gradients[key], exact[key])


def test_it_needs_local_losses() -> None:
    with pytest.raises(ModelRefused, match=r"has no local losses.*set --local-losses"):
        LocalGradient(LocalGradientOptions()).bind(nn.Linear(3, 2), torch.zeros(2, 3))
