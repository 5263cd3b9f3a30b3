"""Forward gradients along the gradients of local losses.

Fournier, Rivaud, Belilovsky, Eickenberg and Oyallon 2023, arXiv:2306.06968, "Can forward gradient match
backpropagation?". With y_j = ∂L_j/∂h_j of a sample, L_j the loss of the head at block j's output h_j, and g_j = ∂L/∂h_j
of the model's own loss,

    ĝ_j = ⟨g_j, y_j⟩ y_j / ‖y_j‖²

⟨g_j, y_j⟩ comes from one pass with the tangent y_j at h_j, through the blocks behind it. Within the block ĝ_j goes on
by reverse mode, as in the authors' code. The heads are trained by their own losses, the last block by the model's.

Cost: a forward and a reverse pass within each block, which never pass two blocks, and the tangents: `directions=blocks`
takes a dual pass for each block, `joint` one, whose δ is the sum over the blocks, which are then projected together.

What is not true of it: that it is unbiased: what of g_j is orthogonal to y_j is lost. It is without backpropagation
between blocks alone. It never steps against the true gradient, but where local and global loss disagree (cos near 0) it
hardly steps.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.buffers import state_of
from fgcli.gradient.checks import FORWARD_MODE, refuse
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.local_losses import LocalHead, LocalLosses
from fgcli.gradient.look import look
from fgcli.gradient.loss import differentiable, output_gradient
from fgcli.gradient.nested import tangent_of
from fgcli.gradient.plain import math_attention
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.sites import NOWHERE, PLAIN
from fgcli.gradient.uses import call
from fgcli.methods.options import LocalGradientOptions


class LocalGradient(Stateless):
    """Each block's gradient, projected onto that of its own head's loss."""

    def __init__(self, options: LocalGradientOptions) -> None:
        self.joint = options.directions == "joint"
        self.mixes = False

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        """As Estimator has it. ModelRefused for a model without local losses."""
        refuse(model, FORWARD_MODE)
        if not isinstance(model, LocalLosses):
            raise ModelRefused("it has no local losses, whose gradients this method guesses with: set --local-losses")
        network = look(model, example)
        self.mixes = bool(network.mixes)
        notes = (f"samples are not told apart ({network.mixes}): one δ for the batch",) if network.mixes else ()
        return Coverage(sites=tuple(model.heads), unused=network.unused, notes=notes)

    @torch.no_grad()
    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        assert isinstance(model, LocalLosses)
        back = state_of(model, None, batch.device)
        parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}
        total = {name: torch.zeros_like(one) for name, one in parameters.items()}
        h, y, losses = self._local(model, loss, batch, parameters, total)
        for names in [list(h)] if self.joint else [[name] for name in h]:
            back()
            delta = self._delta(model, loss, batch, {name: y[name] for name in names})
            square = torch.stack([self._square(y[name]) for name in names]).sum(0)
            share = torch.where(square > 0, delta / square, 0.0)  # [samples]
            for name in names:
                estimate = y[name] * share.view(-1, *[1] * (y[name].dim() - 1)).to(y[name].dtype)
                _add(total, parameters, h[name], estimate)
        return Estimate(losses, total)

    def _local(
        self, model: LocalLosses, loss: Loss, batch: Batch, parameters: Mapping[str, Tensor], total: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """The blocks' outputs h, each with the graph of its block, y there, and the model's own losses.

        Gradients of the heads, and of the block behind the last of them, are added to `total`.
        """
        h: dict[str, Tensor] = {}
        y: dict[str, Tensor] = {}

        def at_head(name: str, head: LocalHead, output: Tensor) -> Tensor:
            h[name] = output
            leaf = output.detach().requires_grad_()
            of_head = differentiable(loss(head(leaf).sum(-2), batch.targets)).mean()
            (y[name],) = torch.autograd.grad(of_head, [leaf], retain_graph=True)
            _add(total, parameters, of_head)
            return output.detach()

        with torch.enable_grad(), math_attention():
            own = call(lambda *given, **named: model.hooked(at_head, given, named), batch.inputs)
            losses = differentiable(loss(own, batch.targets))
            _add(total, parameters, losses.mean())
        return h, y, losses.detach()

    def _delta(self, model: LocalLosses, loss: Loss, batch: Batch, y: Mapping[str, Tensor]) -> Tensor:
        """The derivative of each sample's share of the model's own loss along tangents at blocks' outputs [samples]."""

        def at_head(name: str, head: LocalHead, output: Tensor) -> Tensor:
            if name not in y:
                return output
            value, arriving = forward_ad.unpack_dual(output)
            return forward_ad.make_dual(value, y[name] if arriving is None else arriving + y[name])

        with forward_ad.dual_level(), math_attention():
            own = call(lambda *given, **named: model.hooked(at_head, given, named), batch.inputs)
            layout, samples = (NOWHERE, 1) if self.mixes else (PLAIN, batch.size)
            return output_gradient(loss, own, batch.targets, [layout], samples).along([tangent_of(own)], 1)[:, 0]

    def _square(self, y: Tensor) -> Tensor:
        """‖y‖² of each sample, or of the batch where samples are not told apart."""
        squares = (y * y).flatten(1).sum(1)
        return squares.sum(0, keepdim=True) if self.mixes else squares


def _add(
    total: dict[str, Tensor], parameters: Mapping[str, Tensor], output: Tensor, gradient: Tensor | None = None
) -> None:
    """Add the vjp of an output by all parameters that its graph reaches."""
    if not output.requires_grad:
        return
    found = torch.autograd.grad(output, list(parameters.values()), gradient, retain_graph=True, allow_unused=True)
    for name, one in zip(parameters, found, strict=True):
        if one is not None:
            total[name] += one
