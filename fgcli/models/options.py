"""Options of the built-in models. Imports no torch, so that listing and checking stay fast."""

from typing import ClassVar, Literal

from pydantic import Field

from fgcli.extend.options import Options

Activation = Literal["relu", "gelu", "tanh", "sigmoid", "silu", "elu", "leaky_relu", "softplus"]


class MLPOptions(Options):
    """A multilayer perceptron; the defaults are the paper's, at its smallest common width."""

    width_bounds_k: ClassVar[bool] = True

    width: int = Field(default=128, ge=1, description="Units of every hidden layer.")
    depth: int = Field(default=3, ge=1, description="Number of hidden layers.")
    bias: bool = Field(default=False, description="Give every layer a bias.")
    activation: Activation = Field(default="relu", description="The function after every hidden layer.")


class ResMLPOptions(MLPOptions):
    """Residual blocks of two Linear layers behind a LayerNorm, all of one width."""

    depth: int = Field(default=3, ge=1, description="Number of residual blocks.")
    activation: Activation = Field(default="relu", description="The function within every block.")


class ConvNetOptions(Options):
    """Strided 3-wide convolutions, in one or two dimensions as the data has, and a Linear layer."""

    width: int = Field(default=32, ge=1, description="Channels of every convolution.")
    depth: int = Field(default=3, ge=1, description="Number of convolutions.")
    bias: bool = Field(default=False, description="Give every layer a bias.")
    stride: int = Field(default=2, ge=1, description="Stride of every convolution.")
    activation: Activation = Field(default="relu", description="The function after every convolution.")


class ResNetOptions(Options):
    """Residual blocks of two 3-wide convolutions with GroupNorm, in one or two dimensions, then average pooling."""

    width: int = Field(default=16, ge=1, description="Channels of every convolution.")
    depth: int = Field(default=3, ge=1, description="Number of residual blocks.")
    bias: bool = Field(default=False, description="Give every layer a bias.")


class TransformerOptions(Options):
    """A pre-norm transformer encoder over patches of the input."""

    width: int = Field(default=32, ge=1, description="Dimension of a token; the MLPs have twice as many units.")
    depth: int = Field(default=2, ge=1, description="Number of blocks.")
    bias: bool = Field(default=False, description="Give every layer a bias.")
    heads: int = Field(default=4, ge=1, description="Attention heads; they divide the width.")
    patch: int = Field(default=4, ge=1, description="Side of a patch; it divides the input's.")


class GPTOptions(Options):
    """Causal self-attention over tokens."""

    width: int = Field(default=128, ge=1, description="Size of a token's vector.")
    depth: int = Field(default=4, ge=1, description="Number of blocks.")
    bias: bool = Field(default=False, description="Give every layer a bias.")
    heads: int = Field(default=4, ge=1, description="Heads of the attention; they divide the width.")
    predicts: Literal["next", "class"] = Field(
        default="next", description="The `next` token after each, or a `class` of the text, from its tokens' mean."
    )
    vocabulary: int = Field(default=256, ge=1, description="Different tokens of the inputs: 256 of bytes.")


class MixerOptions(Options):
    """A patch mixer of blocks."""

    width: int = Field(default=64, ge=1, description="Channels of every block.")
    depth: int = Field(default=3, ge=1, description="Number of blocks.")
    bias: bool = Field(default=False, description="Give every layer a bias.")
    groups: int = Field(default=4, ge=1, description="Groups of channels in the last layer of a block.")
    patch: int = Field(default=4, ge=1, description="Side of a patch; it divides the input's.")
