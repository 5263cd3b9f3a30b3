"""A batch estimated in parts, for less memory: any estimator, which knows nothing of it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Coverage, Estimate, Estimator, FindsFaults, Loss
from fgcli.gradient.randomness import StepRng


class MicroBatched:
    """The estimate of a batch as the mean of those of its parts of at most `size` samples, weighted by their sizes.

    Each part has random streams of its own (the first those of the whole batch), so that an estimate that draws noise
    is another one of the same mean. One that draws none, and keeps nothing from batch to batch, is the same to
    rounding, if samples do not meet in the model. One that learns (feedback's A, a space of W̃) does so from each part,
    as from a batch. Two sets of gradients are held at a time.
    """

    def __init__(self, estimator: Estimator, size: int) -> None:
        self.estimator, self.size = estimator, size
        self.state, self.load_state = estimator.state, estimator.load_state

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        return self.estimator.bind(model, Batch(example, None).rows(slice(self.size)).inputs)

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        if batch.size <= self.size:
            return self.estimator.estimate(model, loss, batch, rng)
        losses, deltas = [], []
        gradients: dict[str, Tensor] = {}
        parts = list(self._parts(batch, rng))
        for part, own in parts:
            share = part.size / batch.size
            estimate = self.estimator.estimate(model, loss, part, own)
            weighted = estimate.losses if estimate.losses.dim() else estimate.losses.view(1) * share * len(parts)
            losses.append(weighted)  # of parts that give a mean alone, one whose mean is the batch's
            if estimate.directional_derivative is not None:
                deltas.append(estimate.directional_derivative * share)
            with torch.no_grad():
                for name, gradient in estimate.gradients.items():
                    # Not in place: some estimators may keep what they give.
                    gradients[name] = gradient * share + gradients[name] if name in gradients else gradient * share
        return Estimate(torch.cat(losses), gradients, torch.cat(deltas) if deltas else None)

    def find_fault(self, model: nn.Module, batch: Batch, rng: StepRng) -> str | None:
        """As FindsFaults has it; None of an estimator that finds none."""
        if not isinstance(self.estimator, FindsFaults):
            return None
        faults = (self.estimator.find_fault(model, part, own) for part, own in self._parts(batch, rng))
        return next((fault for fault in faults if fault), None)

    def _parts(self, batch: Batch, rng: StepRng) -> Iterator[tuple[Batch, StepRng]]:
        for number, start in enumerate(range(0, batch.size, self.size)):
            yield batch.rows(slice(start, start + self.size)), rng.part(number)
