"""Losses in which samples see each other, where a batch is taken in parts: e is of the whole batch's loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.loss import OutputGradient, called, differentiable, output_gradient
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.part_draws import Draws
from fgcli.gradient.pieces import NoisyPass
from fgcli.gradient.sites import Network
from fgcli.gradient.uses import run


def of_whole_loss(
    model: nn.Module,
    network: Network,
    loss: Loss,
    batch: Batch,
    rows: Sequence[slice],
    draws: Draws,
) -> list[OutputGradient] | None:
    """e of each part of a batch from the loss of the whole.

    Args:
        model: the model.
        network: what the look at it found.
        loss: of the model's outputs and the batch's targets.
        batch: the whole.
        rows: its parts'.
        draws: by a part, a context in which its layers draw what the whole batch has.

    Returns:
        By part. None where the loss is the mean of the parts' losses anyway.
    """
    if len(rows) == 1:
        return None

    def outputs_of(one: slice) -> Any:
        part = batch.rows(one)
        with draws(one):
            return run(model, part.inputs, NoisyPass(network, None, part.size))

    layouts = network.output_layouts
    if network.own_loss:
        with draws(slice(0, batch.size)):
            outputs = run(model, batch.inputs, NoisyPass(network, None, batch.size))
        whole = output_gradient(loss, outputs, batch.targets, layouts, batch.size)
    else:
        parts = [(rows[0].stop, outputs_of(rows[0]))]
        if _is_of_samples(network, loss, parts[0][1], batch.rows(rows[0])):
            return None
        parts += [(one.stop - one.start, outputs_of(one)) for one in rows[1:]]
        together = [
            layout.natural(torch.cat([layout.by_sample(one, size) for (size, _), one in zip(parts, some, strict=True)]))
            for layout, some in zip(layouts, zip(*(leaves(one) for _, one in parts), strict=True), strict=True)
        ]
        outputs = rebuilt(parts[0][1], together)
        whole = output_gradient(loss, outputs, batch.targets, layouts, batch.size)
    return [_of_part(whole, one, batch.size / (one.stop - one.start)) for one in rows]


def _of_part(whole: OutputGradient, rows: slice, times: float) -> OutputGradient:
    """e of the part's mean loss."""
    return replace(whole, parts=[e[rows] * times for e in whole.parts], samples=rows.stop - rows.start)


def _is_of_samples(network: Network, loss: Loss, outputs: Any, part: Batch) -> bool:
    """Whether the loss of a part's first half is that half of the part's losses: samples do not see each other."""
    half = max(1, part.size // 2)

    def losses_of(rows: slice) -> Tensor:
        pairs = zip(network.output_layouts, leaves(outputs), strict=True)
        some = [layout.natural(layout.by_sample(one, part.size)[rows]) for layout, one in pairs]
        with torch.enable_grad():  # which a loss may ask for
            given = called(loss, outputs, [one.detach().requires_grad_() for one in some], part.rows(rows).targets)
            return differentiable(given).detach()

    losses, of_half = losses_of(slice(part.size)), losses_of(slice(half))
    if not losses.dim() or losses.numel() * half != of_half.numel() * part.size:
        return False
    expected = losses.flatten()[: of_half.numel()]
    return torch.allclose(of_half.flatten(), expected, rtol=1e-4, atol=1e-6)
