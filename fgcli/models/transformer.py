"""A small transformer encoder over patches of the input."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.errors import UsageError
from fgcli.models.layers import Patches, linear
from fgcli.models.options import GPTOptions, TransformerOptions


class Transformer(nn.Module):
    """`[batch, *input_shape]` to logits `[batch, classes]`: pre-norm blocks of attention and an MLP, then the mean.

    Tokens are patches of the input, with the fixed sinusoidal positions of Vaswani et al. (2017), so that no parameter
    lies outside the layers but those of LayerNorm. UsageError where `patch` does not divide the input or `heads` the
    width.
    """

    positions: Tensor

    def __init__(
        self, options: TransformerOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = options.width
        if width % options.heads:
            raise UsageError(f"model option heads is {options.heads}; it must divide the width, {width}")
        self.patches = Patches(input_shape, options.patch)
        self.embed = linear(self.patches.dim, width, options.bias, generator)
        positions = sinusoids(self.patches.count, width).to(generator.device)
        self.register_buffer("positions", positions, persistent=False)
        self.blocks = nn.Sequential(*(Block(options, generator) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(width, device=generator.device)
        self.output = linear(width, classes, options.bias, generator)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(self.patches(x)) + self.positions
        return self.output(self.norm(self.blocks(x)).mean(1))


class Block(nn.Module):
    """[batch, tokens, width] to the same: attention and an MLP, each behind a LayerNorm and added to its input.

    `causal`: whether a token sees those before it alone.
    """

    def __init__(
        self, options: TransformerOptions | GPTOptions, generator: torch.Generator, *, causal: bool = False
    ) -> None:
        super().__init__()
        self.causal = causal
        width, bias = options.width, options.bias
        self.heads = options.heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, device=generator.device) for _ in range(2))
        self.qkv = linear(width, 3 * width, bias, generator)
        self.attended = linear(width, width, bias, generator)
        self.inner = linear(width, 2 * width, bias, generator)
        self.outer = linear(2 * width, width, bias, generator)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attention = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.attended(attention.transpose(1, 2).flatten(2))
        return x + self.outer(F.gelu(self.inner(self.norm2(x))))


def sinusoids(count: int, width: int) -> Tensor:
    """[count, width]: sines in the even columns, cosines in the odd ones, wavelengths from 2π to 10,000 · 2π."""
    columns = torch.arange(width)
    angles = torch.arange(count).unsqueeze(1) / 10_000 ** (columns.div(2, rounding_mode="floor") * 2 / width)
    return torch.where(columns % 2 == 0, angles.sin(), angles.cos())
