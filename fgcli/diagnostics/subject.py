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
        """The estimator, where its estimates are guesses of the sites' gradients and nothing else.

        What feedback predicts has no closed form: its moments are those in weight space.
        """
        one = self.estimator
        return one if isinstance(one, GuessEstimator) and one.feedback is None else None
