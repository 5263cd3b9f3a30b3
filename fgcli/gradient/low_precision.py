"""Any estimator with its network in fewer bits."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Coverage, Estimate, Estimator, FindsFaults, Loss
from fgcli.gradient.nested import mapped
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.processes import Processes, split
from fgcli.gradient.randomness import StepRng


class LowPrecision:
    """Any estimator with its network's layers in `dtype`. Faults are looked for in float32."""

    def __init__(self, estimator: Estimator, dtype: torch.dtype) -> None:
        self.estimator, self.dtype = estimator, dtype
        self.state, self.load_state = estimator.state, estimator.load_state

    def split_over(self, processes: Processes) -> None:
        """As Splits has it; OptionRefused for an estimator that cannot be split."""
        split(self.estimator, processes)

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        """As Estimator has it; OptionRefused also from an estimator that has `refuse_precision`, of a dtype."""
        refuse = getattr(self.estimator, "refuse_precision", None)
        if refuse is not None:
            refuse(self.dtype)
        return self.estimator.bind(model, example)

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        def wide_loss(outputs: Any, targets: Any) -> Tensor:
            with full_precision(batch.device):
                return loss(mapped(wide, outputs), targets)

        with torch.autocast(batch.device.type, self.dtype):
            estimate = self.estimator.estimate(model, wide_loss, batch, rng)
        gradients = {name: wide(gradient) for name, gradient in estimate.gradients.items()}
        return replace(estimate, losses=wide(estimate.losses), gradients=gradients)

    def find_fault(self, model: nn.Module, batch: Batch, rng: StepRng) -> str | None:
        """As FindsFaults has it; None of an estimator that finds none."""
        if not isinstance(self.estimator, FindsFaults):
            return None
        return self.estimator.find_fault(model, batch, rng)
