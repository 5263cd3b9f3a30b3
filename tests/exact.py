"""Estimates with nothing left to chance, and the gradients of `backward` that they are held to.

An estimate is δ y, bilinear in the noise: summed over a basis of all noise, one direction after another, it is A Aᵀ g,
for isotropic guesses the gradient itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.nested import leaves
from fgcli.gradient.randomness import StepRng, Streams
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.uses import call

CPU = torch.device("cpu")
RNG = Streams(3).at(7)
Slot = tuple[str, int]
"""A site or a parameter, and which entry of its noise is 1."""


def smooth(outputs: Any, _: Any = None) -> Tensor:
    """A loss of any outputs, without axes: a smooth function in which no two entries are alike."""
    found = []
    for one in leaves(outputs):
        entries = torch.arange(one.numel(), dtype=one.dtype).view(one.shape)
        found.append((torch.sin(one + entries.cos()) * (1 + entries.sin())).sum())
    return torch.stack(found).sum() / 3


@contextmanager
def drawing() -> Iterator[None]:
    """Within it layers draw from one stream's start, as in a step of a run."""
    with Streams(1).for_layers("layers", 0, CPU):
        yield


def backward(model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The gradients of `loss.backward()`, by parameter; 0 where it gives none. Buffers are left as they are."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    buffers = [(one, one.clone()) for one in model.buffers()]
    with drawing():
        value = loss(call(model, batch.inputs), batch.targets).mean()
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)
    pairs = zip(parameters.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g.to_dense() for (name, p), g in pairs}


def dimensions(estimator: GuessEstimator, model: nn.Module, batch: Batch) -> dict[str, int]:
    """The length of the noise of each site."""
    with drawing():
        maps = estimator.linear_maps(model, batch.inputs, RNG.step)
    return {name: linear.noise_dim for name, linear in maps.items()}


class Basis:
    """Noise that is one entry of a basis at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of_tangents: list[Slot] = []
        self.shared: Slot | None = None
        monkeypatch.setattr(Tangents, "noise", self._noise)
        monkeypatch.setattr(StepRng, "normal", self._normal)

    def _noise(self, _: StepRng, __: str, name: str, part: range, shape: tuple[int, ...], like: Tensor) -> Tensor:
        z = like.new_zeros(len(part), *shape)
        for k, one in zip(part, z, strict=True):
            for slot in (self.shared, self.of_tangents[k] if k < len(self.of_tangents) else None):
                if slot is not None and slot[0] == name:
                    one[:, slot[1]] = 1
        return z

    def _normal(self, _: str, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        v = like.new_zeros(shape)
        if self.shared is not None and self.shared[0] == name:
            v.view(-1)[self.shared[1]] = 1
        return v


def summed(estimator: GuessEstimator, model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The estimates along a basis of all noise, added up, for an estimator that has been bound."""
    dims, network, tangents = dimensions(estimator, model, batch), estimator.bound, estimator.tangents
    parameters = dict(model.named_parameters())
    alone = [name for name in dims if not (network.sites[name].has_samples or network.mixes)]
    slots = [(name, j) for name, dim in dims.items() if name not in alone for j in range(dim)]
    shared = [(name, j) for name in alone for j in range(dims[name])]
    shared += [(name, j) for name in estimator._perturbed for j in range(parameters[name].numel())]
    parts = [slots[i : i + tangents.number] for i in range(0, len(slots), tangents.number)]
    calls: list[tuple[list[Slot], Slot | None]] = [(part, None) for part in parts]
    calls += [([], one) for one in shared]
    total: dict[str, Tensor] = {}
    buffers = [(one, one.clone()) for one in model.buffers()]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        basis = Basis(patch)
        for basis.of_tangents, basis.shared in calls:
            for buffer, before in buffers:
                buffer.copy_(before)
            with drawing():
                found = estimator.estimate(model, loss, batch, RNG).gradients
            scale = tangents.number if basis.of_tangents else 1  # several make a mean, what is shared does not
            for name, gradient in found.items():
                total[name] = total.get(name, 0) + scale * gradient
        for buffer, before in buffers:
            buffer.copy_(before)
    return total
