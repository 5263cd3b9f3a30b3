"""Layers initialised from a generator alone, and the shapes of inputs, for all built-in models."""

import math

import torch
from torch import Tensor, nn

from fgcli.errors import UsageError
from fgcli.models.options import Activation

_ACTIVATIONS: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
}


def activation(name: Activation) -> nn.Module:
    """The activation's module, with PyTorch's defaults."""
    return _ACTIVATIONS[name]()


def linear(inputs: int, outputs: int, bias: bool, generator: torch.Generator) -> nn.Linear:
    """nn.Linear, initialised as it does itself, but from `generator` and on its device."""
    # skip_init: nn.Linear's own initialisation would draw from the global generator.
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias, device=generator.device)
    assert isinstance(layer, nn.Linear)
    _initialise(layer, generator)
    return layer


def convolution(
    dimensions: int,
    inputs: int,
    outputs: int,
    kernel_size: int,
    bias: bool,
    generator: torch.Generator,
    *,
    stride: int = 1,
    groups: int = 1,
) -> nn.Conv1d | nn.Conv2d:
    """nn.Conv1d or nn.Conv2d, padded by half the kernel; initialised as `linear` is."""
    kind = nn.Conv1d if dimensions == 1 else nn.Conv2d
    layer = nn.utils.skip_init(
        kind,
        inputs,
        outputs,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        groups=groups,
        bias=bias,
        device=generator.device,
    )
    assert isinstance(layer, nn.Conv1d | nn.Conv2d)
    _initialise(layer, generator)
    return layer


def _initialise(layer: nn.Linear | nn.Conv1d | nn.Conv2d, generator: torch.Generator) -> None:
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)


def channels_first(input_shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Channels and lengths: of `[length]` one channel, of `[channels, length]` and `[channels, height, width]` theirs.

    UsageError for another shape.
    """
    if len(input_shape) == 1:
        return 1, input_shape
    if len(input_shape) in (2, 3):
        return input_shape[0], input_shape[1:]
    raise UsageError(
        f"the data's inputs have shape {list(input_shape)}; this model takes [length], [channels, length] or "
        "[channels, height, width]"
    )


class AddChannel(nn.Module):
    """[batch, length] -> [batch, 1, length]; inputs that have channels stay as they are."""

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.missing = len(input_shape) == 1

    def forward(self, x: Tensor) -> Tensor:
        return x.unsqueeze(1) if self.missing else x


class Patches(nn.Module):
    """Cuts inputs into patches of side `patch`: [batch, channels, *lengths] -> [batch, count, dim].

    UsageError where the side does not divide every length.
    """

    def __init__(self, input_shape: tuple[int, ...], patch: int) -> None:
        super().__init__()
        channels, lengths = channels_first(input_shape)
        if any(length % patch for length in lengths):
            raise UsageError(f"model option patch is {patch}; it must divide the inputs' {list(lengths)}")
        self.patch = patch
        self.add_channel = AddChannel(input_shape)
        self.axes = len(lengths)
        self.count = math.prod(length // patch for length in lengths)
        self.dim = channels * patch**self.axes

    def forward(self, x: Tensor) -> Tensor:
        x = self.add_channel(x)
        for axis in range(2, 2 + self.axes):
            x = x.unfold(axis, self.patch, self.patch)
        # [batch, channels, *counts, *sides] -> [batch, counts, channels and sides]
        return x.flatten(2, 1 + self.axes).movedim(1, 2).flatten(2)
