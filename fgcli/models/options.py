"""Options of the built-in models. Imports no torch, so that listing and checking stay fast."""

from typing import ClassVar, Literal

from fgcli.extend.options import Options, option

Activation = Literal["relu", "gelu", "tanh", "sigmoid", "silu", "elu", "leaky_relu", "softplus"]


class MLPOptions(Options):
    """A multilayer perceptron; the defaults are the paper's, at its smallest common width."""

    width_bounds_k: ClassVar[bool] = True

    width: int = option(128, "Units of every hidden layer.", ge=1)
    depth: int = option(3, "Number of hidden layers.", ge=1)
    bias: bool = option(False, "Give every layer a bias.")
    activation: Activation = option("relu", "The function after every hidden layer.")


class ResMLPOptions(Options):
    """Residual blocks of two Linear layers behind a LayerNorm, all of one width."""

    width_bounds_k: ClassVar[bool] = True

    width: int = option(128, "Units of every hidden layer.", ge=1)
    depth: int = option(3, "Number of residual blocks.", ge=1)
    bias: bool = option(False, "Give every layer a bias.")
    activation: Activation = option("relu", "The function within every block.")


class ConvNetOptions(Options):
    """Strided 3-wide convolutions, in one or two dimensions as the data has, and a Linear layer."""

    width: int = option(32, "Channels of every convolution.", ge=1)
    depth: int = option(3, "Number of convolutions.", ge=1)
    bias: bool = option(False, "Give every layer a bias.")
    stride: int = option(2, "Stride of every convolution.", ge=1)
    activation: Activation = option("relu", "The function after every convolution.")


class ResNetOptions(Options):
    """Residual blocks of two 3-wide convolutions with GroupNorm, in one or two dimensions, then average pooling."""

    width: int = option(16, "Channels of every convolution.", ge=1)
    depth: int = option(3, "Number of residual blocks.", ge=1)
    bias: bool = option(False, "Give every layer a bias.")


class TransformerOptions(Options):
    """A pre-norm transformer encoder over patches of the input."""

    width: int = option(32, "Dimension of a token; the MLPs have twice as many units.", ge=1)
    depth: int = option(2, "Number of blocks.", ge=1)
    bias: bool = option(False, "Give every layer a bias.")
    heads: int = option(4, "Attention heads; they divide the width.", ge=1)
    patch: int = option(4, "Side of a patch; it divides the input's.", ge=1)


class GPTOptions(Options):
    """Causal self-attention over tokens."""

    width: int = option(128, "Size of a token's vector.", ge=1)
    depth: int = option(4, "Number of blocks.", ge=1)
    bias: bool = option(False, "Give every layer a bias.")
    heads: int = option(4, "Heads of the attention; they divide the width.", ge=1)
    predicts: Literal["next", "class"] = option(
        "next", "The `next` token after each, or a `class` of the text, from its tokens' mean."
    )
    vocabulary: int = option(256, "Different tokens of the inputs: 256 of bytes.", ge=1)


class MixerOptions(Options):
    """A patch mixer of blocks."""

    width: int = option(64, "Channels of every block.", ge=1)
    depth: int = option(3, "Number of blocks.", ge=1)
    bias: bool = option(False, "Give every layer a bias.")
    groups: int = option(4, "Groups of channels in the last layer of a block.", ge=1)
    patch: int = option(4, "Side of a patch; it divides the input's.", ge=1)
