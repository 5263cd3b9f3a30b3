"""A small causal transformer over tokens."""

import torch
from torch import Tensor, nn
from torch.compiler import is_exporting

from fgcli.errors import UsageError
from fgcli.models.layers import linear
from fgcli.models.options import GPTOptions
from fgcli.models.transformer import Block, sinusoids


class GPT(nn.Module):
    """Tokens `[batch, length]` to logits: `[batch, length, classes]`, or `[batch, classes]` with `predicts` class.

    Pre-norm blocks of causal attention and an MLP, with fixed sinusoidal positions. Tokens are int64; what is below 0
    stands behind the end of a text and counts for nothing. UsageError for inputs that are none.
    """

    positions: Tensor

    def __init__(
        self, options: GPTOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        width = options.width
        if width % options.heads:
            raise UsageError(f"model option heads is {options.heads}; it must divide the width, {width}")
        if len(input_shape) != 1:
            raise UsageError(f"the data's inputs have shape {list(input_shape)}; gpt-tiny takes tokens, [length]")
        self.predicts = options.predicts
        self.embed = nn.Embedding(
            options.vocabulary, width, _weight=torch.randn(options.vocabulary, width, generator=generator)
        )
        self.register_buffer("positions", sinusoids(*input_shape, width).to(generator.device), persistent=False)
        self.blocks = nn.Sequential(*(Block(options, generator, causal=True) for _ in range(options.depth)))
        self.norm = nn.LayerNorm(width, device=generator.device)
        self.output = linear(width, classes, options.bias, generator)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.is_floating_point():
            raise UsageError("gpt-tiny takes tokens, and the inputs are numbers: use a dataset of texts")
        # An exported program has no place for what depends on the inputs' values.
        if not is_exporting() and (largest := int(tokens.max())) >= self.embed.num_embeddings:
            raise UsageError(f"model option vocabulary is {self.embed.num_embeddings}; the data hold token {largest}")
        x = self.norm(self.blocks(self.embed(tokens.clamp(min=0)) + self.positions))
        if self.predicts == "class":
            weights = (tokens >= 0).to(x.dtype)
            x = (x * weights.unsqueeze(2)).sum(1) / weights.sum(1, keepdim=True)
        return self.output(x)
