"""Estimates with nothing left to chance, and the gradients of `backward` that they are held to.

An estimate is δ y, bilinear in the noise: summed over a basis of all noise, one direction after another, it is A Aᵀ g,
for isotropic guesses the gradient itself.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.randomness import StepRng, Streams
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.uses import call, leaves

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
    """The gradients that `loss.backward()` gives, by parameter; 0 where it gives none. The model is left as it is."""
    twin = copy.deepcopy(model)
    twin.zero_grad()
    with drawing():
        loss(call(twin, batch.inputs), batch.targets).mean().backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.to_dense()
        for name, p in twin.named_parameters()
        if p.requires_grad
    }


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
    shared: list[Slot | None] = [(name, j) for name in alone for j in range(dims[name])]
    shared += [(name, j) for name in estimator._perturbed for j in range(parameters[name].numel())]
    if tangents.single:
        calls: list[tuple[list[Slot], Slot | None]] = [([slot], None) for slot in slots] + [([], one) for one in shared]
    else:
        parts = [slots[i : i + tangents.number] for i in range(0, len(slots), tangents.number)]
        number = max(len(parts), len(shared))
        empty: list[list[Slot]] = [[]]
        calls = list(
            zip(parts + empty * (number - len(parts)), shared + [None] * (number - len(shared)), strict=True)
        )
    with pytest.MonkeyPatch.context() as patch:
        basis, total = Basis(patch), {}
        buffers = [(one, one.clone()) for one in model.buffers()]
        for basis.of_tangents, basis.shared in calls:
            for buffer, before in buffers:
                buffer.copy_(before)
            with drawing():
                found = estimator.estimate(model, loss, batch, RNG).gradients
            for name, gradient in found.items():
                of_sites = name not in estimator._perturbed and not _of_shared(estimator, alone, name)
                scale = tangents.number if of_sites else 1
                total[name] = total.get(name, 0) + scale * gradient
    return total


def _of_shared(estimator: GuessEstimator, alone: list[str], name: str) -> bool:
    """Whether the parameter is used where samples are nowhere; then it must not be used elsewhere too."""
    users = [site.name for site in estimator.bound.sites.values() if name in site.parameters]
    assert len({user in alone for user in users}) == 1, f"{name} is used both with and without samples"
    return users[0] in alone
