"""Patch mixers after LocalMixer (Ren et al. 2023, arXiv:2210.03310): theirs, and a smaller one with its own losses."""

import torch
from torch import Tensor, nn

from fgcli.errors import UsageError
from fgcli.models.layers import Patches, convolution, linear
from fgcli.models.options import MixerOptions


class Mixer(nn.Module):
    """Ren et al.'s mixer: blocks of a token-mixing, a channel-mixing and a group layer, `[batch, *shape]` to logits.

    Each layer is followed by a normalisation over the channels without parameters, and a ReLU; the group layer, which
    connects channels within groups alone, is normalised within each group, and the block's input is added before its
    ReLU. The first block has no token mixing and no sum. The mean over the patches and a linear layer give the logits.
    A chain by itself: `--local-losses 1 --local-head group` with as many `--local-groups` puts their losses there.
    UsageError where `groups` does not divide the width or `patch` the inputs.

    Ren et al. perturb what the normalisation gives; a site is the layer's own output, before it.
    """

    def __init__(
        self, options: MixerOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.patches = Patches(input_shape, options.patch)
        _check_groups(options)
        dims = [self.patches.dim, *[options.width] * (options.depth - 1)]
        self.blocks = nn.Sequential(
            *(
                _Block(dim, self.patches.count, options, generator, is_first=number == 0)
                for number, dim in enumerate(dims)
            )
        )
        self.output = linear(options.width, classes, options.bias, generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.blocks(self.patches(x)).mean(1))


class _Block(nn.Module):
    """[batch, patches, dim] -> [batch, patches, width]."""

    def __init__(
        self, dim: int, patches: int, options: MixerOptions, generator: torch.Generator, *, is_first: bool
    ) -> None:
        super().__init__()
        width, bias, self.groups = options.width, options.bias, options.groups
        self.tokens = None if is_first else linear(patches, patches, bias, generator)
        self.channels = linear(dim, width, bias, generator)
        self.group = convolution(1, width, width, 1, bias, generator, groups=options.groups)

    def forward(self, x: Tensor) -> Tensor:
        mixed = x if self.tokens is None else torch.relu(_normalised(self.tokens(x.mT).mT))
        hidden = torch.relu(_normalised(self.channels(mixed)))
        grouped = self.group(hidden.mT).mT.unflatten(2, (self.groups, -1))
        out = _normalised(grouped).flatten(2)
        return torch.relu(out if self.tokens is None else out + x)


class LocalMixer(nn.Module):
    """Blocks that mix patches and channels, each with a classifier of its own at every patch.

    A block is relu(group(relu(channels(x + relu(tokens(x)))))), inputs of each layer normalised over the channels; the
    first has no token mixing, and `group` connects channels within groups alone. In train mode it gives the logits of
    all local classifiers, `[batch, classes, blocks · patches]`, and no derivative passes from one block to another; in
    eval mode the last block's, averaged over patches, `[batch, classes]`. UsageError where `groups` does not divide the
    width or `patch` the inputs.

    Ren et al. also take a directional derivative of its own for each local loss; here there is one for their mean:
    `mixer` with local losses is their construction.
    """

    def __init__(
        self, options: MixerOptions, input_shape: tuple[int, ...], classes: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        _check_groups(options)
        self.patches = Patches(input_shape, options.patch)
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleList()
        dim, count = self.patches.dim, self.patches.count
        for number in range(options.depth):
            self.blocks.append(_LocalBlock(dim, count, options, generator, is_first=number == 0))
            self.heads.append(linear(options.width, classes, options.bias, generator))
            dim = options.width

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        logits = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x.detach())
            logits.append(head(_normalised(x)).mT)
        return torch.cat(logits, 2) if self.training else logits[-1].mean(2)


class _LocalBlock(_Block):
    def forward(self, x: Tensor) -> Tensor:
        if self.tokens is not None:
            x = x + torch.relu(self.tokens(_normalised(x).mT)).mT
        x = torch.relu(self.channels(_normalised(x)))
        return torch.relu(self.group(_normalised(x).mT)).mT


def _check_groups(options: MixerOptions) -> None:
    if options.width % options.groups:
        raise UsageError(f"model option groups is {options.groups}; it must divide the width, {options.width}")


def _normalised(x: Tensor) -> Tensor:
    """LayerNorm over the channels, the last axis, without parameters."""
    x = x - x.mean(-1, keepdim=True)
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
