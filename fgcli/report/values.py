"""The numbers of a trial that a view asks for. Imports no torch."""

from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar

from fgcli.report.trials import State, Trial
from fgcli.runs.diagnostics import MOMENTS, DiagnosticsRow, OverlapCurve
from fgcli.runs.quantities import QUANTITIES
from fgcli.runs.quantity import Quantity
from fgcli.runs.record import name_of, numbers
from fgcli.runs.results import METRICS, MetricsRow
from fgcli.runs.timing import ENOUGH, TIMING, StepTiming
from fgcli.sweep.views import Budget, Goal, Progress, Value

Row = MetricsRow | DiagnosticsRow
RowT = TypeVar("RowT", MetricsRow, DiagnosticsRow)
ROUNDING = 1e-12  # of a product of steps and seconds
PROGRESS: dict[Progress, Quantity] = {
    "epoch": Quantity("epoch", style="plain", key="epoch"),
    "step": Quantity("step", style="plain", key="step"),
    "seconds": Quantity("training time", style="digits", unit="s", of_machine=True, key="seconds"),
    "flops": Quantity("floating-point operations", style="powers", key="flops"),
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
        return None if trial.timing is None else numbers(trial.timing).get(value.key)
    if value.key in MOMENTS:
        return _of_layer(_diagnostics_row(trial, value.epoch), value)
    rows = trial.run.metrics if trial.run else ()
    if value.key in METRICS and spent is not None and spent.value is not None:
        if trial.result is None and ends_before(trial, spent):
            return None
        reached = [(progress_of(trial, row, spent.x), row) for row in rows]
        within = [row for one, row in reached if one is not None and one <= spent.value * (1 + ROUNDING)]
        return _metric(within[-1] if within else None, value)
    if value.key in METRICS and value.epoch is not None:
        return _metric(_at_epoch(rows, value.epoch), value)
    return None if trial.result is None else numbers(trial.result).get(value.key)


def _metric(row: MetricsRow | None, value: Value) -> float | None:
    return None if row is None else numbers(row.metrics).get(value.key)


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


def progress_of(trial: Trial, row: Row, x: Progress) -> float | None:
    """How far a row of metrics or diagnostics is; seconds and flops are its steps times those of one step.

    Those of one step are from timing.json. Without it the median time of the run's own steps is used, and the
    operations are not known.
    """
    if x == "epoch":
        return row.epoch
    if x == "step":
        return row.step
    flops = None if trial.timing is None else trial.timing.steps.step_flops
    one = seconds_of_step(trial)[0] if x == "seconds" else flops
    return None if one is None else row.step * one


def seconds_of_step(trial: Trial) -> tuple[float | None, bool]:
    """Of one step, and whether timing.json says so."""
    steps, result = trial.timing and trial.timing.steps, trial.result
    # Not the median, where some steps do more than others; files of before have no other.
    if steps is not None and steps.timed_step_ms is not None:
        return (steps.timed_step_ms_mean or steps.timed_step_ms) / 1e3, True
    if result is None or result.step_ms_median is None:
        return None, False
    return (result.step_ms_mean or result.step_ms_median) / 1e3, False


def machine_of(trial: Trial, value: Value, spent: Budget | None = None) -> str:
    """Where a time, or a size in memory, was measured; or the seconds that were spent."""
    if value.key in TIMING or (spent is not None and spent.x == "seconds" and seconds_of_step(trial)[1]):
        return "" if trial.timing is None else trial.timing.machine
    return "" if trial.run is None else trial.run.machine


def hangs_on_machine(value: Value, spent: Budget | None) -> bool:
    """Whether a number depends on the device and its load: a time, a size in memory, or what a time has brought."""
    return QUANTITIES[value.key].of_machine or (spent is not None and spent.x == "seconds" and value.key in METRICS)


def quartiles_of(trial: Trial, value: Value) -> tuple[float, float] | None:
    """Of single steps, where timing.json has enough of them."""
    if trial.timing is None or value.key != name_of(StepTiming.timed_step_ms):
        return None
    if (trial.timing.steps.timed_samples or ENOUGH) < ENOUGH:
        return None
    quartiles = trial.timing.steps.timed_step_ms_quartiles
    return (quartiles[0], quartiles[1]) if len(quartiles) == 2 else None


def curve_of(trial: Trial, y: Value, x: Progress) -> list[tuple[float, float, float]]:
    """(step, progress, value) at each row that has both."""
    if trial.run is None or trial.state is State.UNREADABLE:
        return []
    rows: Iterable[Row] = trial.run.metrics if y.key in METRICS else trial.run.diagnostics
    found = []
    for row in rows:
        progress = progress_of(trial, row, x)
        number = _metric(row, y) if isinstance(row, MetricsRow) else _of_layer(row, y)
        if progress is not None and number is not None:
            found.append((row.step, progress, number))
    return found


def first_as_good(trial: Trial, goal: Goal) -> MetricsRow | None:
    """The first evaluation that is as good as the goal; None where none is."""
    sign = -1 if QUANTITIES[goal.key].better == "lower" else 1
    for row in trial.run.metrics if trial.run else ():
        number = numbers(row.metrics).get(goal.key)
        if number is not None and sign * number >= sign * goal.value:
            return row
    return None


def overlaps_of(trial: Trial, epoch: float | None) -> dict[str, OverlapCurve]:
    """By layer, the curve over k of the record after `epoch`, or of the last one."""
    row = _diagnostics_row(trial, epoch)
    return {layer: one.overlap for layer, one in row.layers.items() if one.overlap} if row else {}


def layer_of(trial: Trial, value: Value) -> str | None:
    """The layer that a value of diagnostics is of."""
    row = _diagnostics_row(trial, value.epoch)
    return value.layer or (next(iter(row.layers), None) if row else None)


def _at_epoch(rows: Iterable[RowT], epoch: float) -> RowT | None:
    return next((row for row in rows if row.epoch == epoch), None)


def _diagnostics_row(trial: Trial, epoch: float | None) -> DiagnosticsRow | None:
    """The record after `epoch`; without one, the last of a finished run."""
    if trial.run is None or (epoch is None and trial.result is None) or not trial.run.diagnostics:
        return None
    return trial.run.diagnostics[-1] if epoch is None else _at_epoch(trial.run.diagnostics, epoch)


def _of_layer(row: DiagnosticsRow | None, value: Value) -> float | None:
    layers = row.layers if row else {}
    layer = layers.get(value.layer or next(iter(layers), ""))
    return None if layer is None else layer.moments.get(value.key)
