"""Convolutional networks, in one or two dimensions as the data has: plain and residual."""

import math

import torch
from torch import Tensor, nn

from fgcli.models.layers import AddChannel, activation, channels_first, convolution, linear
from fgcli.models.options import ConvNetOptions, ResNetOptions


def convnet(
    options: ConvNetOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
) -> nn.Module:
    """`[batch, *input_shape]` to logits `[batch, classes]`: strided convolutions, each with an activation, then Linear.

    Inputs are [length], [channels, length] or [channels, height, width].
    """
    channels, lengths = channels_first(input_shape)
    layers = nn.Sequential()
    layers.add_module("add_channel", AddChannel(input_shape))
    for number in range(1, options.depth + 1):
        layer = convolution(len(lengths), channels, options.width, 3, options.bias, generator, stride=options.stride)
        layers.add_module(f"conv{number}", layer)
        layers.add_module(f"activation{number}", activation(options.activation))
        channels, lengths = options.width, tuple((length - 1) // options.stride + 1 for length in lengths)
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("output", linear(channels * math.prod(lengths), classes, options.bias, generator))
    return layers


class ResNet(nn.Module):
    """`[batch, *input_shape]` to logits `[batch, classes]`: pre-activated residual convolutions with GroupNorm.

    Between the blocks average pooling halves the lengths, as long as they are above 2 (He et al. 2016,
    arXiv:1603.05027, in small, and with GroupNorm, which does not mix samples).
    """

    def __init__(
        self, options: ResNetOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        channels, lengths = channels_first(input_shape)
        axes, width = len(lengths), options.width
        self.add_channel = AddChannel(input_shape)
        self.stem = convolution(axes, channels, width, 3, options.bias, generator)
        self.blocks = nn.Sequential()
        for number in range(1, options.depth + 1):
            self.blocks.add_module(f"block{number}", _Block(axes, width, options.bias, generator))
            if min(lengths) > 2 and number < options.depth:
                self.blocks.add_module(f"pool{number}", nn.AvgPool1d(2) if axes == 1 else nn.AvgPool2d(2))
                lengths = tuple(length // 2 for length in lengths)
        self.norm = _group_norm(width, generator)
        self.output = linear(width, classes, options.bias, generator)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.blocks(self.stem(self.add_channel(x)))))
        return self.output(x.flatten(2).mean(2))


class _Block(nn.Module):
    def __init__(self, axes: int, width: int, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.norm1, self.norm2 = _group_norm(width, generator), _group_norm(width, generator)
        self.conv1, self.conv2 = (convolution(axes, width, width, 3, bias, generator) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv1(torch.relu(self.norm1(x)))
        return x + self.conv2(torch.relu(self.norm2(inner)))


def _group_norm(width: int, generator: torch.Generator) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(width, 4), width, device=generator.device)
