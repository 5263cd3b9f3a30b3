"""A batch estimated in parts, for less memory: any estimator, which knows nothing of it."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Coverage, Estimate, Estimator, FindsFaults, Loss
from fgcli.gradient.randomness import StepRng


class MicroBatched:
    """The estimate of a batch as the mean of those of its parts of at most `size` samples, weighted by their sizes.

    Each part has random streams of its own (the first those of the whole batch), so that an estimate that draws noise
    is another one of the same mean. One that draws none is the same to rounding, if samples do not meet in the model.
    Two sets of gradients are held at a time.
    """

    def __init__(self, estimator: Estimator, size: int) -> None:
        self.estimator, self.size = estimator, size

    def bind(self, model: nn.Module, example: Tensor) -> Coverage:
        return self.estimator.bind(model, example[: self.size])

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        if len(batch.inputs) <= self.size:
            return self.estimator.estimate(model, loss, batch, rng)
        losses, deltas = [], []
        gradients: dict[str, Tensor] = {}
        for part, own in self._parts(batch, rng):
            share = len(part.inputs) / len(batch.inputs)
            estimate = self.estimator.estimate(model, loss, part, own)
            losses.append(estimate.losses)
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
        parts = zip(batch.inputs.split(self.size), batch.targets.split(self.size), strict=True)
        for number, (inputs, targets) in enumerate(parts):
            yield Batch(inputs, targets), rng.part(number)

    def state(self) -> dict[str, Tensor]:
        return self.estimator.state()

    def load_state(self, state: dict[str, Tensor]) -> None:
        self.estimator.load_state(state)
