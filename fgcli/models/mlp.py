"""The multilayer perceptron of the paper's experiments."""

import math
from collections import OrderedDict

import torch
from torch import nn

from fgcli.models.options import Activation, MLPOptions

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


def mlp(options: MLPOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator) -> nn.Sequential:
    """Linear layers `hidden1`, `hidden2`, … and `output`, an activation after each hidden one.

    Maps `[batch, *input_shape]` to logits `[batch, classes]`; inputs of several axes are flattened first.
    Initialised as nn.Linear does itself, but from `generator` alone, on the generator's device.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(input_shape) != 1:
        layers["flatten"] = nn.Flatten()
    width = math.prod(input_shape)
    for number in range(1, options.depth + 1):
        layers[f"hidden{number}"] = _linear(width, options.width, options.bias, generator)
        layers[f"activation{number}"] = _ACTIVATIONS[options.activation]()
        width = options.width
    layers["output"] = _linear(width, classes, options.bias, generator)
    return nn.Sequential(layers)


def _linear(inputs: int, outputs: int, bias: bool, generator: torch.Generator) -> nn.Linear:
    # skip_init: nn.Linear's own initialisation would draw from the global generator.
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias, device=generator.device)
    assert isinstance(layer, nn.Linear)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if bias:
        bound = 1 / math.sqrt(inputs)
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
