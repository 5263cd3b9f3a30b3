"""What is diagnosed: an estimator at one state of a model."""

from dataclasses import dataclass

from torch import nn

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Coverage, Estimator, Loss


@dataclass(frozen=True)
class Subject:
    """An estimator bound to `model`, after `step` updates. `coverage` is what its `bind` returned.

    Diagnostics call `prepare` for that step: give them an estimator of their own (with the run's state loaded), so
    that the run's is left as it is.
    """

    model: nn.Module
    loss: Loss
    estimator: Estimator
    coverage: Coverage
    step: int = 0

    @property
    def guesses(self) -> GuessEstimator | None:
        """The estimator, where its estimates are of the sites' gradients."""
        return self.estimator if isinstance(self.estimator, GuessEstimator) else None

    @property
    def correction(self) -> float:
        """α: the share of the guess in the estimate; 1 without feedback, 0 where no guess is made."""
        guesses = self.guesses
        return 1.0 if guesses is None or guesses.feedback is None else guesses.feedback.correction
