"""One training step written by hand for a bias-free ReLU MLP with cross-entropy: closed-form tangents, no hooks.

What fg's general machinery is measured against. Nothing of fgcli is used here.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[list[Tensor], Tensor, Tensor], list[Tensor]]
"""(weights, inputs [batch, d], labels [batch]) -> a gradient per weight, of the mean loss."""


def _loss_gradient(outputs: Tensor, labels: Tensor) -> Tensor:
    """∂L_b/∂outputs: [batch, classes]."""
    probabilities = torch.softmax(outputs, 1)
    probabilities[torch.arange(len(labels)), labels] -= 1
    return probabilities


def activation_perturbation(generator: torch.Generator, *, transpose: bool = False) -> Step:
    """Activation perturbation, or W̃ᵀ where `transpose`."""

    def step(weights: list[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
        x, tangent = inputs, None
        seen: list[tuple[Tensor, Tensor]] = []
        for i, weight in enumerate(weights):
            s = x @ weight.T
            hidden = i + 1 < len(weights)
            mask = s.sign().clamp_min_(0) if hidden else None
            if transpose and mask is not None:
                above = weights[i + 1]
                y = (torch.randn(len(s), above.shape[0], generator=generator) @ above).mul_(mask)
            else:
                y = torch.randn(s.shape, generator=generator)
            tangent = y if tangent is None else (tangent @ weight.T).add_(y)
            seen.append((x, y))
            if mask is not None:
                x, tangent = s.mul_(mask), tangent * mask
            else:
                x = s
        assert tangent is not None
        delta = (_loss_gradient(x, labels) * tangent).sum(1) / len(x)
        return [y.mul_(delta.unsqueeze(1)).T @ x for x, y in seen]

    return step


def weight_perturbation(generator: torch.Generator) -> Step:
    def step(weights: list[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
        x, tangent = inputs, None
        directions = [torch.randn(weight.shape, generator=generator) for weight in weights]
        for i, (weight, direction) in enumerate(zip(weights, directions, strict=True)):
            s, own = x @ weight.T, x @ direction.T
            tangent = own if tangent is None else own.add_(tangent @ weight.T)
            if i + 1 < len(weights):
                mask = s.sign().clamp_min_(0)
                x, tangent = s.mul_(mask), tangent.mul_(mask)
            else:
                x = s
        assert tangent is not None
        total = (_loss_gradient(x, labels) * tangent).sum() / len(x)
        return [direction.mul_(total) for direction in directions]

    return step


def backprop() -> Step:
    def step(weights: list[Tensor], inputs: Tensor, labels: Tensor) -> list[Tensor]:
        inputs_of, masks = [inputs], []
        for weight in weights[:-1]:
            s = inputs_of[-1] @ weight.T
            masks.append(s.sign().clamp_min_(0))
            inputs_of.append(s.mul_(masks[-1]))
        g = _loss_gradient(inputs_of[-1] @ weights[-1].T, labels) / len(inputs)
        gradients = []
        for i in range(len(weights) - 1, -1, -1):
            gradients.append(g.T @ inputs_of[i])
            if i:
                g = (g @ weights[i]).mul_(masks[i - 1])
        return gradients[::-1]

    return step
