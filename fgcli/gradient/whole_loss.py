"""Losses in which samples see each other, where a batch is taken in parts: e is of the whole batch's loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.loss import OutputGradient, output_gradient
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.passes import PlainPass
from fgcli.gradient.sites import Layout, Network
from fgcli.gradient.uses import run


def of_whole_loss(
    model: nn.Module, network: Network, loss: Loss, batch: Batch, parts: Sequence[Batch]
) -> list[OutputGradient] | None:
    """e of each part of a batch from the loss of the whole.

    Args:
        model: the model.
        network: what the look at it found.
        loss: of the model's outputs and the batch's targets.
        batch: the whole.
        parts: it, in parts.

    Returns:
        By part. None where the loss is the mean of the parts' losses anyway.
    """
    if len(parts) == 1:
        return None

    def outputs_of(part: Batch) -> Any:
        return run(model, part.inputs, PlainPass(network, lambda *_: None, part.size))

    first = outputs_of(parts[0])
    if _is_of_samples(network, loss, first, parts[0]):
        return None
    outputs = [first, *map(outputs_of, parts[1:])]
    layouts = network.output_layouts
    together = [
        layout.natural(torch.cat([layout.by_sample(one, p.size) for one, p in zip(some, parts, strict=True)]))
        for layout, some in zip(layouts, zip(*map(leaves, outputs), strict=True), strict=True)
    ]
    whole = output_gradient(loss, rebuilt(first, together), batch.targets, layouts, batch.size)
    ends = torch.tensor([part.size for part in parts]).cumsum(0).tolist()
    return [
        replace(whole, parts=[e[end - p.size : end] * (batch.size / p.size) for e in whole.parts], samples=p.size)
        for end, p in zip(ends, parts, strict=True)
    ]


def _is_of_samples(network: Network, loss: Loss, outputs: Any, part: Batch) -> bool:
    """Whether the loss of a part's first half is that half of the part's losses: samples do not see each other."""
    half = max(1, part.size // 2)

    def first_half(layout: Layout, one: Tensor) -> Tensor:
        return layout.natural(layout.by_sample(one, part.size)[:half])

    pairs = zip(network.output_layouts, leaves(outputs), strict=True)
    few_outputs = rebuilt(outputs, [first_half(*pair) for pair in pairs])
    losses, of_half = loss(outputs, part.targets), loss(few_outputs, part.rows(slice(half)).targets)
    if not losses.dim() or losses.numel() * half != of_half.numel() * part.size:
        return False
    expected = losses.flatten()[: of_half.numel()]
    return torch.allclose(of_half.flatten(), expected, rtol=1e-4, atol=1e-6)
