"""What the search of the learning rate chose: for every method, and every axis but the seed. Imports no torch."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from fgcli.bench.run import Job
from fgcli.files import read_json
from fgcli.sweep.plan import PlannedTrial
from fgcli.sweep.schema import Tune

SCHEMA = 1
Group = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True)
class Choice:
    """One method at one point of the grid."""

    label: str
    axes: Mapping[str, Any]
    candidates: Mapping[float, float | None]
    """The mean over the seeds, by learning rate; None where a trial failed."""
    lr: float | None
    """The best; None where all failed."""

    @property
    def at_the_edge(self) -> bool:
        """Whether a wider search might have chosen another one."""
        return self.lr in (min(self.candidates), max(self.candidates)) and len(self.candidates) > 1


def choose(tune: Tune, trials: Iterable[tuple[PlannedTrial, Job]]) -> dict[Group, Choice]:
    """The learning rate of each group of trials, from the finished runs of the search. Of equals the smaller one."""
    found: dict[Group, dict[float, list[float | None]]] = {}
    for trial, job in trials:
        lr = float(trial.axes["lr"])
        found.setdefault(without_lr(trial), {}).setdefault(lr, []).append(_value(tune, job))
    choices: dict[Group, Choice] = {}
    for (label, axes), values in found.items():
        means = {
            lr: None if None in several else mean(v for v in several if v is not None) for lr, several in values.items()
        }
        better = {lr: value for lr, value in means.items() if value is not None}
        sign = -1 if tune.by.endswith("accuracy") else 1
        best = min(better, key=lambda lr: (sign * better[lr], lr), default=None)
        choices[label, axes] = Choice(label, dict(axes), means, best)
    return choices


def without_lr(trial: PlannedTrial) -> Group:
    """The group of the grid that a trial of the search is for."""
    label, axes = trial.group
    return label, tuple((key, value) for key, value in axes if key != "lr")


def as_json(tune: Tune, choices: Mapping[Group, Choice], before: Path) -> dict[str, Any]:
    """The content of tuned.json. What a file has `before` of other groups stays: they were not asked for now."""
    places = [(choice.label, dict(choice.axes)) for choice in choices.values()]
    rows = [row for row in _rows(before) if (row["label"], row["axes"]) not in places]
    rows += [
        {
            "label": choice.label,
            "axes": choice.axes,
            "lr": choice.lr,
            "candidates": [{"lr": lr, "mean": value} for lr, value in choice.candidates.items()],
        }
        for choice in choices.values()
    ]
    return {"schema": SCHEMA, "by": tune.by, "seeds": tune.seed, "rows": rows}


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows = read_json(file)["rows"]
        return [row for row in rows if row.keys() >= {"label", "axes"}]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []  # it is written anew


def _value(tune: Tune, job: Job) -> float | None:
    value = job.result()[tune.by] if job.is_finished() else None
    return value if value is not None and math.isfinite(value) else None
