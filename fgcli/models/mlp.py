"""The multilayer perceptron of the paper's experiments."""

import math
import operator
from collections import OrderedDict

import torch
from torch import nn

from fgcli.devices import machine_memory
from fgcli.errors import UsageError
from fgcli.models.layers import activation, linear
from fgcli.models.options import MLPOptions


def mlp(options: MLPOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator) -> nn.Sequential:
    """Linear layers `hidden1`, `hidden2`, … and `output`, an activation after each hidden one.

    Maps `[batch, *input_shape]` to logits `[batch, classes]`; inputs of several axes are flattened first.
    Initialised as nn.Linear does itself, but from `generator` alone, on the generator's device.
    """
    widths = [math.prod(input_shape), *[options.width] * options.depth, classes]
    weights, memory = sum(map(operator.mul, widths, widths[1:])), machine_memory()
    if memory is not None and 4 * weights > memory:
        raise UsageError(
            f"a network of width {options.width} and depth {options.depth} has {weights:,} weights, which take "
            f"{4 * weights / 2**30:,.0f} GiB, and this machine has {memory / 2**30:,.0f}; set a smaller width or depth"
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(input_shape) != 1:
        layers["flatten"] = nn.Flatten()
    for number, width in enumerate(widths[:-2], 1):
        layers[f"hidden{number}"] = linear(width, options.width, options.bias, generator)
        layers[f"activation{number}"] = activation(options.activation)
    layers["output"] = linear(widths[-2], classes, options.bias, generator)
    return nn.Sequential(layers)
