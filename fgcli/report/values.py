"""The numbers of a trial that a view asks for. Imports no torch."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from fgcli.report.runs import METRICS, is_number
from fgcli.report.trials import State, Trial
from fgcli.runs.quantities import QUANTITIES, Quantity
from fgcli.sweep.views import Budget, DiagnosticKey, Progress, TimingKey, Value

ROUNDING = 1e-12  # of a product of steps and seconds
TIMING, DIAGNOSTICS = get_args(TimingKey), get_args(DiagnosticKey)
PROGRESS: dict[Progress, Quantity] = {
    "epoch": Quantity("epoch", "epoch", style="plain"),
    "step": Quantity("step", "step", style="plain"),
    "seconds": Quantity("seconds", "training time", style="digits", unit="s", of_machine=True),
    "flops": Quantity("flops", "floating-point operations", style="powers"),
}


def quantity_of(value: Value) -> Quantity:
    """What the value is, under the title that the view gives it, or one that says where it is read."""
    known = QUANTITIES[value.key]
    layer = f" of {value.layer}" if value.layer else ""
    after = f" after {value.epoch:g} {'epoch' if value.epoch == 1 else 'epochs'}" if value.epoch is not None else ""
    return replace(known, title=value.title or f"{known.title}{layer}{after}")


def number_of(trial: Trial, value: Value, spent: Budget | None = None) -> float | None:
    """The value of one trial, None where it has none (yet), as an unfinished one has before it has spent the budget.

    `spent` must say how much.
    """
    if value.key in TIMING:
        return _timed(trial, value.key)
    if value.key in DIAGNOSTICS:
        return _of_layer(_diagnostics_row(trial, value.epoch), value)
    rows = trial.run.metrics if trial.run else ()
    if value.key in METRICS and spent is not None and spent.value is not None:
        if trial.result is None and ends_before(trial, spent):
            return None
        return _last_within(trial, rows, spent.x, spent.value).get(value.key)
    if value.key in METRICS and value.epoch is not None:
        return _at_epoch(rows, value.epoch).get(value.key)
    return None if trial.result is None else trial.result[value.key]


def common_budget(trials: Iterable[Trial], budget: Budget) -> Budget:
    """The budget with the most that every finished trial has spent, where the view does not say how much."""
    if budget.value is not None:
        return budget
    spent = [
        progress
        for trial in trials
        if trial.result is not None and trial.run is not None and trial.run.metrics
        if (progress := progress_of(trial, trial.run.metrics[-1], budget.x)) is not None
    ]
    return budget.model_copy(update={"value": min(spent, default=None)})


def ends_before(trial: Trial, spent: Budget) -> bool:
    """Whether a run's last evaluation is short of the budget, as far as what it has spent is known."""
    if trial.run is None or not trial.run.metrics or spent.value is None:
        return False
    last = progress_of(trial, trial.run.metrics[-1], spent.x)
    return last is not None and last < spent.value * (1 - ROUNDING)


def progress_of(trial: Trial, row: Mapping[str, Any], x: Progress) -> float | None:
    """How far a row of metrics or diagnostics is; seconds and flops are its steps times those of one step.

    Those of one step are from timing.json. Without it the median time of the run's own steps is used, and the
    operations are not known.
    """
    if x == "epoch" or x == "step":
        return row[x]
    one = seconds_of_step(trial)[0] if x == "seconds" else _timed(trial, "step_flops")
    return None if one is None else row["step"] * one


def seconds_of_step(trial: Trial) -> tuple[float | None, bool]:
    """Of one step, and whether timing.json says so."""
    if (timed := _timed(trial, "timed_step_ms")) is not None:
        return timed / 1e3, True
    return (None if trial.result is None else trial.result["step_ms_median"] / 1e3), False


def machine_of(trial: Trial, value: Value, spent: Budget | None = None) -> str:
    """Where a time, or a size in memory, was measured; or the seconds that were spent."""
    if value.key in TIMING or (spent is not None and spent.x == "seconds" and seconds_of_step(trial)[1]):
        return trial.timing.get("machine", "")
    return "" if trial.run is None else trial.run.machine


def hangs_on_machine(value: Value, spent: Budget | None) -> bool:
    """Whether a number depends on the device and its load: a time, a size in memory, or what a time has brought."""
    return QUANTITIES[value.key].of_machine or (spent is not None and spent.x == "seconds" and value.key in METRICS)


def quartiles_of(trial: Trial, value: Value) -> tuple[float, float] | None:
    """Of single steps, where timing.json has them."""
    found = trial.timing.get(f"{value.key}_quartiles")
    if isinstance(found, list) and len(found) == 2 and all(map(is_number, found)):
        return float(found[0]), float(found[1])
    return None


def _timed(trial: Trial, key: str) -> float | None:
    found = trial.timing.get(key)
    return float(found) if is_number(found) else None


def curve_of(trial: Trial, y: Value, x: Progress) -> list[tuple[float, int, float]]:
    """(progress, step, value) at each row that has both."""
    if trial.run is None or trial.state is State.UNREADABLE:
        return []
    rows = trial.run.metrics if y.key in METRICS else trial.run.diagnostics
    found = []
    for row in rows:
        progress = progress_of(trial, row, x)
        number = row.get(y.key) if y.key in METRICS else _of_layer(row, y)
        if progress is not None and is_number(number):
            found.append((progress, row["step"], float(number)))
    return found


def overlaps_of(trial: Trial, epoch: float | None) -> dict[str, Mapping[str, list[float]]]:
    """By layer, the curve over k of the record after `epoch`, or of the last one."""
    layers = _diagnostics_row(trial, epoch).get("layers", {})
    return {layer: numbers["overlap"] for layer, numbers in layers.items() if isinstance(numbers.get("overlap"), dict)}


def layer_of(trial: Trial, value: Value) -> str | None:
    """The layer that a value of diagnostics is of."""
    layers = _diagnostics_row(trial, value.epoch).get("layers", {})
    return value.layer or next(iter(layers), None)


def _last_within(trial: Trial, rows: Iterable[Mapping[str, Any]], x: Progress, most: float) -> Mapping[str, Any]:
    reached = [(progress_of(trial, row, x), row) for row in rows]
    within = [row for spent, row in reached if spent is not None and spent <= most * (1 + ROUNDING)]
    return within[-1] if within else {}


def _at_epoch(rows: Iterable[Mapping[str, Any]], epoch: float) -> Mapping[str, Any]:
    return next((row for row in rows if row["epoch"] == epoch), {})


def _diagnostics_row(trial: Trial, epoch: float | None) -> Mapping[str, Any]:
    """The record after `epoch`; without one, the last of a finished run."""
    if trial.run is None or (epoch is None and trial.result is None) or not trial.run.diagnostics:
        return {}
    return trial.run.diagnostics[-1] if epoch is None else _at_epoch(trial.run.diagnostics, epoch)


def _of_layer(row: Mapping[str, Any], value: Value) -> float | None:
    layers = row.get("layers", {})
    number = layers.get(value.layer or next(iter(layers), ""), {}).get(value.key)
    return float(number) if is_number(number) else None
