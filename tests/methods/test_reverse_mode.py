"""Every method but backpropagation trains with reverse mode taken away, but for the loss's own derivative."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from claims import ESTIMATORS, GUESSES, Claim
from networks import batch_for, chain, cross_entropy
from torch import Tensor

from fgcli.gradient.randomness import Streams

Grad = Callable[..., tuple[Tensor, ...]]
# Learned feedback makes the direction of `directional`, by a pull through the next layer; local-gradient takes heads.
REVERSE = {"backprop", "backprop-checkpoint", "directional", "local-gradient"}
FORWARD = [*GUESSES, *(claim for claim in ESTIMATORS if claim.method not in REVERSE)]


def _refusing(name: str) -> Callable[..., None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError(f"{name} was called")

    return refuse


def _of_the_loss_alone(grad: Grad, outputs: Tensor, inputs: list[Tensor], *args: Any, **kwargs: Any) -> Any:
    """torch.autograd.grad of one number with respect to a network's outputs [samples, 3], whose graph ends there."""
    assert outputs.dim() == 0
    assert [(one.shape[1:], one.is_leaf) for one in inputs] == [((3,), True)]
    assert all(not isinstance(one, torch.nn.Parameter) for one in inputs)
    return grad(outputs, inputs, *args, **kwargs)


@pytest.mark.parametrize("claim", FORWARD, ids=lambda claim: claim.name)
def test_loss_falls_without_backward_and_grad(claim: Claim, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "backward", _refusing("Tensor.backward"))
    monkeypatch.setattr(torch.autograd, "backward", _refusing("autograd.backward"))
    model = chain(5, 8, 8, 3, bias=True)
    monkeypatch.setattr(torch.autograd, "grad", partial(_of_the_loss_alone, torch.autograd.grad))
    batch = batch_for(model, 64)
    estimator = claim.estimator()
    estimator.bind(model, batch.inputs[:2])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    losses = []
    for step in range(25):
        estimate = estimator.estimate(model, cross_entropy, batch, Streams(0).at(step))
        for name, parameter in model.named_parameters():
            parameter.grad = estimate.gradients[name]
            assert not estimate.gradients[name].requires_grad
        optimizer.step()
        losses.append(float(estimate.losses.mean()))
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
