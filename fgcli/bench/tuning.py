"""What the search of the learning rate chose: for every method, and every axis but the seed. Imports no torch."""

from collections.abc import Iterable
from statistics import mean
from typing import Any

from fgcli.bench.run import Job
from fgcli.errors import UsageError
from fgcli.runs.record import numbers
from fgcli.runs.results import METRICS
from fgcli.runs.tuned import Choice
from fgcli.sweep.plan import PlannedTrial
from fgcli.sweep.schema import Tune

Group = tuple[str, tuple[tuple[str, Any], ...]]


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
        sign = -1 if METRICS[tune.by].better == "higher" else 1
        best = min(better, key=lambda lr: (sign * better[lr], lr), default=None)
        choices[label, axes] = Choice(label, dict(axes), means, best)
    return choices


def without_lr(trial: PlannedTrial) -> Group:
    """What a trial is, but for seed and learning rate: the group of the grid that one of the search is for."""
    label, axes = trial.group
    return label, tuple((key, value) for key, value in axes if key != "lr")


def _value(tune: Tune, job: Job) -> float | None:
    if not job.run.is_finished():
        return None
    measured = numbers(job.run.read_result())
    if tune.by not in measured:
        loss = job.recipe.loss
        raise UsageError(f"tune.by is {tune.by}, which a run with loss {loss} has not; choose train_loss or test_loss")
    return measured[tune.by]
