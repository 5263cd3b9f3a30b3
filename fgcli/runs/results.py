"""What a run measures: the rows of metrics.jsonl, and result.json. Imports no torch."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fgcli.errors import RunError
from fgcli.notebook import html_table
from fgcli.runs.quantity import MIB, Quantity
from fgcli.runs.record import UNLESS_DEFAULT, as_json, name_of, numbers, quantities, read_record

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What an evaluation measures, over whole splits; accuracies where the loss has any."""

    train_accuracy: Annotated[float | None, Quantity("train accuracy", "higher", highest=1.0), UNLESS_DEFAULT] = None
    test_accuracy: Annotated[float | None, Quantity("test accuracy", "higher", highest=1.0), UNLESS_DEFAULT] = None
    train_loss: Annotated[float, Quantity("train loss", "lower", lowest=-math.inf)]
    test_loss: Annotated[float, Quantity("test loss", "lower", lowest=-math.inf)]
    train_left_out: Annotated[int, UNLESS_DEFAULT] = 0
    """Samples whose loss is not finite, which the numbers leave out."""
    test_left_out: Annotated[int, UNLESS_DEFAULT] = 0


@dataclass(frozen=True, slots=True)
class MetricsRow:
    """An evaluation after `step` updates, `wall_s` seconds after the run began."""

    step: int
    epoch: float
    metrics: Metrics
    wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a finished run came to. On disk, the keys of its recipe stand beside these."""

    recipe: Mapping[str, Any]
    steps: int
    skipped_updates: int = 0
    """Updates left out, as something was not finite."""
    metrics: Metrics
    """Of the last evaluation."""
    best_step: int | None = None
    """The step of the evaluation with the lowest training loss."""
    wall_s: Annotated[float, Quantity("wall time", "lower", "digits", "s", of_machine=True)]
    step_ms_median: Annotated[float | None, Quantity("time per step", "lower", "digits", "ms", of_machine=True)]
    """None where nobody has measured it, in a training loop of one's own."""
    step_ms_quartiles: tuple[float, ...] = ()
    """The lower and the upper one."""
    step_ms_mean: Annotated[float | None, Quantity("mean time per step", "lower", "digits", "ms", of_machine=True)] = (
        None
    )
    """Where steps differ (feedback with tangents now and then), the mean is what a run pays."""
    peak_memory_bytes: Annotated[int, Quantity("peak memory", "lower", "digits", "MiB", MIB, of_machine=True)]
    sites: tuple[str, ...] = ()
    perturbed: tuple[str, ...] = ()
    """Parameters that no site covers, trained by weight perturbation."""
    frozen: tuple[str, ...] = ()
    processes: Annotated[int, UNLESS_DEFAULT] = 1
    """That trained together."""
    sent_bytes_per_step: Annotated[
        float | None, Quantity("sent by a process per step", "lower", "digits", "B"), UNLESS_DEFAULT
    ] = None
    """What each of several processes gave to the others in a step."""
    run_dir: str = ""

    def as_json(self) -> dict[str, Any]:
        """As it is written down.

        Returns:
            The content of result.json.
        """
        own = as_json(self)
        return {"schema": SCHEMA, **own.pop(_RECIPE), **own}

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        titles = {"method": self.recipe.get("method"), "dataset": self.recipe.get("dataset"), "run": self.run_dir}
        rows = [(title, str(value)) for title, value in titles.items() if value]
        known = quantities(Result)
        rows += [(known[key].heading, known[key].text(number)) for key, number in numbers(self).items()]
        return html_table(rows)

    @classmethod
    def from_json(cls, content: object, file: Path) -> "Result":
        """RunError where the content is not a result's, as of the schema that this fg writes."""
        if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
            raise RunError(f"{file} is none of fg's: it has no schema {SCHEMA}")
        own = {"schema", *cls.__slots__, *Metrics.__slots__}
        recipe = {key: value for key, value in content.items() if key not in own}
        return read_record(cls, {**content, _RECIPE: recipe}, file)


_RECIPE = name_of(Result.recipe)
METRICS = quantities(Metrics)
