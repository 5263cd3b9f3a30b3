"""The exact gradient at the network's output: e = ∂L/∂(output), one local term, by a vjp of the loss alone.

δ_b = ⟨e_b, the tangent there⟩ for every sample, whatever form the loss has: a mean, a loss a sample, one in which the
samples of a batch see each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from fgcli.gradient.errors import LossRefused
from fgcli.gradient.estimator import Loss
from fgcli.gradient.nested import behind, leaves, mapped, rebuilt
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.sites import Layout
from fgcli.gradient.uses import Outputs


@dataclass(frozen=True)
class OutputGradient:
    """e of one batch."""

    losses: Tensor
    """[batch], or without axes where the loss gives a mean alone; detached."""
    parts: Sequence[Tensor]
    """e with respect to each floating-point output, [samples, ...], of the mean loss."""

    layouts: Sequence[Layout]
    """Where samples are in these outputs."""
    samples: int
    """The number of samples that the batch is taken as."""

    def along(self, tangents: Sequence[Tensor | None], rows: int) -> Tensor:
        """δ [samples, rows] of the outputs' tangents, for samples that are repeated `rows` times."""
        samples = self.samples
        found = self.parts[0].new_zeros(samples, rows)
        for layout, e, tangent in zip(self.layouts, self.parts, tangents, strict=True):
            if tangent is None:
                continue
            by_sample = layout.by_sample(wide(tangent), rows * samples)
            if layout.axis is None and samples * rows > 1:  # it belongs to no sample: to what is shared alone
                found[0] += (e * by_sample).sum()
                continue
            by_row = by_sample.reshape(rows, samples, -1)
            found += (by_row * e.reshape(samples, -1)).sum(2).T
        return found


def output_gradient(
    loss: Loss, outputs: Outputs, targets: Any, layouts: Sequence[Layout], samples: int, rows: int = 1
) -> OutputGradient:
    """e, from a model's outputs for a batch.

    Args:
        loss: gives a mean, or a loss a sample, of outputs and targets.
        outputs: the model's, for samples that are repeated `rows` times; tangents are left out.
        targets: the loss's.
        layouts: where samples are in each floating-point output.
        samples: the number of samples that the batch is taken as.
        rows: see above.

    Returns:
        e of the mean loss.

    Raises:
        LossRefused: for a loss that gives no tensor of numbers, or has no derivative.
    """
    mapped(_refuse_complex, outputs)
    once = []
    for layout, one in zip(layouts, leaves(outputs), strict=True):
        value = forward_ad.unpack_dual(one).primal.detach()
        if rows > 1 and layout.axis is not None:
            value = layout.natural(layout.by_sample(value, rows * samples)[:samples])
        once.append(wide(value).requires_grad_())
    if not once:
        raise LossRefused("the model gives no floating-point tensor, so that its loss has no derivative")
    with torch.enable_grad(), full_precision(once[0]):
        losses = differentiable(called(loss, outputs, once, targets))
        refuse_others(losses, once)
        e = torch.autograd.grad(losses.mean(), once, allow_unused=True, materialize_grads=True)
    parts = [layout.by_sample(one, samples) for layout, one in zip(layouts, e, strict=True)]
    return OutputGradient(losses.detach(), parts, layouts, samples)


def called(loss: Loss, outputs: Outputs, once: Sequence[Tensor], targets: Any) -> Any:
    """What the loss gives for leaves in the outputs' place."""
    try:
        return loss(rebuilt(outputs, once), targets)
    except RuntimeError as error:
        if not ("in-place" in str(error) or "inplace" in str(error)):
            raise
        return loss(rebuilt(outputs, [one.clone() for one in once]), targets)  # a leaf is not changed in place


def sum_of(outputs: Outputs, _: Any) -> Tensor:
    """A loss for trials: the sum of all that the model gives."""
    return torch.stack([one.sum() for one in leaves(outputs)]).sum()


def _refuse_complex(value: Any) -> None:
    if isinstance(value, Tensor) and value.is_complex():
        raise LossRefused(
            "the model gives a complex tensor, whose tangents are not followed to the loss: let it give "
            "torch.view_as_real of that, or use backprop"
        )


def refuse_others(losses: Tensor, outputs: Sequence[Tensor] = ()) -> None:
    """LossRefused where the loss depends on a trained tensor beside the outputs, whose gradient would be lost."""
    own = {id(one) for one in outputs}
    for leaf in behind([losses]):
        if id(leaf) not in own:
            raise LossRefused(
                f"the loss depends on a trained tensor of shape {list(leaf.shape)} beside the model's outputs (a "
                "penalty on a weight, say), whose gradient would be lost: let the loss use its arguments only, with "
                "the optimizer's weight_decay for a penalty, or use backprop"
            )


def differentiable(losses: Any) -> Tensor:
    """What a loss gave for outputs that require a gradient. LossRefused unless it has a derivative."""
    if not isinstance(losses, Tensor) or not losses.is_floating_point():
        found = losses.dtype if isinstance(losses, Tensor) else type(losses).__name__
        raise LossRefused(f"the loss gave {found}; it must give a tensor of numbers: the mean, or a loss a sample")
    if not losses.requires_grad:
        raise LossRefused(
            "the loss has no derivative with respect to the model's outputs (it detaches them, or counts); use one "
            "that has"
        )
    return losses
