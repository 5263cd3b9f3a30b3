"""What the training loop tells while it works; how it is shown is the caller's choice."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgcli.gradient.estimator import Coverage
from fgcli.runs.results import MetricsRow


@dataclass(frozen=True)
class Plan:
    """What is about to be trained: the method's name, steps in all and already done, and where it is written."""

    method: str
    run_dir: Path
    first_step: int
    total_steps: int
    steps_per_epoch: int
    coverage: Coverage
    data: str = ""
    """What the dataset holds, in a line."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The run's recipe, by key, as JSON has it."""
    sweep: Path | None = None
    """The folder of the sweep that the run is a trial of."""


class Reporter:
    """Called by the loop, outside of what it times. This one says nothing."""

    def started(self, plan: Plan) -> None:
        """Training begins, or goes on."""

    def stepped(self, step: int, loss: float) -> None:
        """`step` updates are done; `loss` is the mean over the last batch, before its update."""

    def evaluated(self, row: MetricsRow) -> None:
        """An evaluation's metrics row was written."""

    def warned(self, message: str) -> None:
        """Something is amiss, and the run goes on."""
