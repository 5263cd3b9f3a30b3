"""The multilayer perceptron of the paper's experiments."""

import math
import operator
from collections import OrderedDict

import torch
from torch import nn

from fgcli.models.layers import activation, check_fits, linear
from fgcli.models.options import MLPOptions


def mlp(options: MLPOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator) -> nn.Sequential:
    """Linear layers `hidden1`, `hidden2`, … and `output`, an activation after each hidden one.

    Maps `[batch, *input_shape]` to logits `[batch, classes]`; inputs of several axes are flattened first.
    Initialised as nn.Linear does itself, but from `generator` alone, on the generator's device.
    """
    widths = [math.prod(input_shape), *[options.width] * options.depth, classes]
    check_fits(
        sum(map(operator.mul, widths, widths[1:])), f"a network of width {options.width} and depth {options.depth}"
    )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(input_shape) != 1:
        layers["flatten"] = nn.Flatten()
    width = math.prod(input_shape)
    for number in range(1, options.depth + 1):
        layers[f"hidden{number}"] = linear(width, options.width, options.bias, generator)
        layers[f"activation{number}"] = activation(options.activation)
        width = options.width
    layers["output"] = linear(width, classes, options.bias, generator)
    return nn.Sequential(layers)
