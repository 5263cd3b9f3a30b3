"""Options of the built-in models. Imports no torch, so that listing and checking stay fast."""

from typing import Literal

from pydantic import Field

from fgcli.extend.options import Options

Activation = Literal["relu", "gelu", "tanh", "sigmoid", "silu", "elu", "leaky_relu", "softplus"]


class MLPOptions(Options):
    """A multilayer perceptron; the defaults are the paper's, at its smallest common width."""

    width: int = Field(default=128, ge=1, description="Units of every hidden layer.")
    depth: int = Field(default=3, ge=1, description="Number of hidden layers.")
    bias: bool = Field(default=False, description="Give every layer a bias.")
    activation: Activation = Field(default="relu", description="The function after every hidden layer.")
