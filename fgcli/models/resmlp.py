"""A multilayer perceptron of residual blocks with LayerNorm."""

import math

import torch
from torch import Tensor, nn

from fgcli.models.layers import activation, linear
from fgcli.models.options import ResMLPOptions


class ResMLP(nn.Module):
    """Inputs `[batch, *input_shape]` to logits `[batch, classes]`, through blocks x + W₂ φ(W₁ LN(x)) of one width."""

    def __init__(
        self, options: ResMLPOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        width, bias = options.width, options.bias
        self.enter = linear(math.prod(input_shape), width, bias, generator)
        self.blocks = nn.Sequential(*(_Block(options, generator) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(width, device=generator.device)
        self.output = linear(width, classes, bias, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.norm(self.blocks(self.enter(x.flatten(1)))))


class _Block(nn.Module):
    def __init__(self, options: ResMLPOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(options.width, device=generator.device)
        self.inner = linear(options.width, options.width, options.bias, generator)
        self.activation = activation(options.activation)
        self.outer = linear(options.width, options.width, options.bias, generator)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.activation(self.inner(self.norm(x))))
