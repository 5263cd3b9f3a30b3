"""Figures from trials and a view: curves over training, values over an axis, goals, overlaps. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from fgcli.report.alike import left_out_notes, unlike_notes
from fgcli.report.chapters import Chapter
from fgcli.report.document import BAND, CUT, TWO_DRAWN, Axis, Figure, Panel, Point, Series, axis_name, axis_text
from fgcli.report.drawing import cuts_intervals
from fgcli.report.statistics import mean_interval
from fgcli.report.tables import split
from fgcli.report.trials import State, Trial
from fgcli.report.values import (
    PROGRESS,
    common_budget,
    curve_of,
    first_as_good,
    hangs_on_machine,
    layer_of,
    machine_of,
    number_of,
    overlaps_of,
    progress_of,
    quantity_of,
    seconds_of_step,
)
from fgcli.report.wording import budget_notes, missing_notes
from fgcli.runs.quantities import QUANTITIES
from fgcli.runs.quantity import Quantity
from fgcli.runs.results import METRICS
from fgcli.runs.timing import TIMING, TIMING_FILE
from fgcli.sweep.views import Budget, CurveView, FigureView, OverlapView, ReachView, as_key


def make_curves(chapter: Chapter, view: CurveView) -> Figure:
    """A value over training, a line for each value of `by`, a panel for each of the other axes' values."""
    panels: list[Panel] = []
    used: list[Trial] = []
    for title, trials in split(chapter, view, [view.by]):
        used += trials
        panels.append(Panel(title, _series(chapter, trials, view.by, lambda t: curve_of(t, view.y, view.x))))
    notes = _progress_notes(used, view)
    if view.y.key not in METRICS:
        layers = dict.fromkeys(layer for trial in used if (layer := layer_of(trial, view.y)))
        notes.append(f"Layer: {', '.join(layers) or 'none recorded'}.")
    return _figure(chapter, view, PROGRESS[view.x], quantity_of(view.y), panels, notes, used)


def make_figure(chapter: Chapter, view: FigureView) -> Figure:
    """A value over an axis of numbers."""
    panels: list[Panel] = []
    used: list[Trial] = []
    budgets: dict[str, Budget] = {}
    machines: set[str] = set()
    for title, trials in split(chapter, view, [view.by, view.x]):
        used += trials
        budget = common_budget(trials, view.at) if view.at else None
        if budget is not None:
            budgets[title] = budget

        def numbers(trial: Trial, spent: Budget | None = budget) -> list[tuple[float, float, float]]:
            number = number_of(trial, view.y, spent)
            x = trial.axis(view.x)
            if number is None or not isinstance(x, int | float):
                return []
            if hangs_on_machine(view.y, spent):
                machines.add(machine_of(trial, view.y, spent))
            return [(x, x, number)]

        series = _series(chapter, trials, view.by, numbers, once=view.y.key in TIMING)
        panels.append(Panel(title, tuple(_with_published(one, view, chapter, trials) for one in series)))
    notes: list[str] = []
    if view.at is not None:
        drawn = {id(one) for panel in panels for line in panel.series for point in line.points for one in point.trials}
        without = [trial for trial in used if id(trial) not in drawn]
        notes += budget_notes(view.at, budgets, used, without, chapter.axes)
    if any(one.published for panel in panels for one in panel.series):
        notes.append(f"Hollow: {view.reference_name}, single runs.")
    notes += _machines(machines)
    x = Quantity(axis_name(view.x), style="plain", key=view.x)
    return _figure(chapter, view, x, quantity_of(view.y), panels, notes, used)


def make_reach(chapter: Chapter, view: ReachView) -> Figure:
    """What each has spent at the first evaluation that is as good as the goal, against another number of it."""

    def numbers(trial: Trial) -> list[tuple[float, float, float]]:
        row, y = first_as_good(trial, view.goal), number_of(trial, view.y)
        x = None if row is None else progress_of(trial, row, view.x)
        return [] if x is None or y is None else [(0.0, x, y)]

    panels: list[Panel] = []
    used: list[Trial] = []
    short: list[str] = []
    unknown: list[str] = []
    for title, trials in split(chapter, view, [view.by]):
        used += trials
        series: list[Series] = []
        finished = [trial for trial in trials if trial.result]
        for one in _series(chapter, finished, view.by, numbers):
            own = [trial for trial in finished if axis_text(view.by, trial.axis(view.by)) == one.name]
            if one.points and len(one.points[0].trials) == len(own):
                if view.y.key in TIMING:  # one number for all seeds, which has no interval
                    one = replace(one, points=tuple(replace(p, y=mean_interval(p.values[:1])) for p in one.points))
                series.append(one)
                continue
            # The mean of those seeds alone that come to the goal would flatter.
            come = all(first_as_good(trial, view.goal) for trial in own)
            (unknown if come else short).append(", ".join(filter(None, (one.name, title))))
        panels.append(Panel(title, tuple(series)))
    goal, spent = QUANTITIES[view.goal.key], PROGRESS[view.x]
    where = f"Where {goal.title} first comes to {goal.text(view.goal.value)} at an evaluation"
    notes = [f"{where}: {spent.title}, the mean over seeds."]
    notes += [f"Not all seeds come to it: {'; '.join(short)}."] * bool(short)
    timing = " (`fgcli bench --timing`)" if {view.y.key} & TIMING.keys() or view.x in ("seconds", "flops") else ""
    notes += [f"Come to it, but a number is not measured{timing}: {'; '.join(unknown)}."] * bool(unknown)
    return _figure(chapter, view, spent, quantity_of(view.y), panels, [*notes, *_progress_notes(used, view)], used)


def make_overlaps(chapter: Chapter, view: OverlapView) -> Figure:
    """Overlap over k, a line for each layer, a panel for each value of every axis and label."""
    panels: list[Panel] = []
    used: list[Trial] = []
    for title, trials in split(chapter, view, []):
        used += trials
        layers = dict.fromkeys(layer for trial in trials for layer in overlaps_of(trial, view.epoch))
        series = []
        for style, layer in enumerate(layers):
            found: dict[float, list[tuple[Trial, float, float]]] = {}
            for trial in trials:
                curve = overlaps_of(trial, view.epoch).get(layer)
                for k, number in zip(curve.k, getattr(curve, view.measure), strict=True) if curve else ():
                    found.setdefault(k, []).append((trial, k, number))
            have = {id(trial) for entries in found.values() for trial, _, _ in entries}
            series.append(Series(layer, style, _points(found), _lacking(len(have), len(trials))))
        if not layers:
            finished = sum(trial.state is State.FINISHED for trial in trials)
            series.append(Series("no layer", 0, (), _lacking(finished, len(trials))))
        panels.append(Panel(title, tuple(series)))
    when = "the last record" if view.epoch is None else f"the record after epoch {view.epoch:g}"
    x, y = Quantity("k", style="plain", key="k"), QUANTITIES[view.measure]
    return _figure(chapter, view, x, y, panels, [f"Of {when}."], used)


def _figure(
    chapter: Chapter, view: CurveView | FigureView | ReachView | OverlapView, x: Quantity, y: Quantity,
    panels: Sequence[Panel], notes: Sequence[str], used: Sequence[Trial],
) -> Figure:  # fmt: skip
    """The figure, with the notes that all kinds have. What finished runs have not recorded is named, and not drawn."""
    drawn = [
        replace(one, series=tuple(s for s in one.series if s.points or s.published or s.incomplete)) for one in panels
    ]
    unrecorded = [
        ", ".join(filter(None, (panel.title, series.name)))
        for panel, kept in zip(panels, drawn, strict=True)
        for series in panel.series
        if series not in kept.series
    ]
    points = [point for panel in panels for series in panel.series for point in series.points]
    counts = sorted({point.y.n for point in points})
    said = [*([view.note] if view.note else []), *notes]
    if not points:
        said.append("No run has a number for this figure yet.")
    else:
        said += [f"Mean over seeds ± 95 % t-interval{BAND}."] * (counts[-1] > 2)
        said += [TWO_DRAWN] * (2 in counts)
    if unrecorded:
        said.append(f"Not recorded: {'; '.join(unrecorded)}.")
    kept = tuple(panel for panel in drawn if panel.series) or (Panel("", ()),)
    figure = Figure(view.title, Axis(x, "x" in view.log), Axis(y, "y" in view.log), kept, ())
    if cuts_intervals(figure):
        said.append(CUT)
    made = [*unlike_notes(used, chapter.axes), *left_out_notes(used)]
    missing = missing_notes(used, chapter.axes, timed=y.key in TIMING)
    return replace(figure, notes=(*said, *made, *missing))


def _series(
    chapter: Chapter,
    trials: Sequence[Trial],
    by: str,
    numbers: Callable[[Trial], list[tuple[float, float, float]]],
    *,
    once: bool = False,
) -> tuple[Series, ...]:
    """A line for each value of `by`, in the style that it has in the whole chapter. `numbers` gives (key, x, y).

    `once`: there is one number for all seeds, whether they have been run or not.
    """
    series: list[Series] = []
    for style, value in enumerate(chapter.values(by)):
        some = [trial for trial in trials if as_key(trial.axis(by)) == as_key(value)]
        if not some:
            continue
        found: dict[float, list[tuple[Trial, float, float]]] = {}
        for trial in some:
            for key, x, y in numbers(trial):
                if not (once and key in found):
                    found.setdefault(key, []).append((trial, x, y))
        finished = sum(trial.state is State.FINISHED for trial in some)
        lacking = "" if once else _lacking(finished, len(some))
        series.append(Series(axis_text(by, value), style, _points(found), lacking))
    return tuple(series)


def _lacking(found: int, wanted: int) -> str:
    return "" if found == wanted else f"{found} of {wanted} finished"


def _points(found: Mapping[float, list[tuple[Trial, float, float]]]) -> tuple[Point, ...]:
    """From (trial, x, y) by a key that seeds share."""
    points = [
        Point(
            sum(x for _, x, _ in entries) / len(entries),
            mean_interval([y for _, _, y in entries]),
            tuple(trial for trial, _, _ in entries),
            tuple(y for _, _, y in entries),
        )
        for entries in found.values()
    ]
    return tuple(sorted(points, key=lambda point: point.x))


def _with_published(series: Series, view: FigureView, chapter: Chapter, trials: Iterable[Trial]) -> Series:
    value = chapter.values(view.by)[series.style]
    xs = sorted({x for trial in trials if isinstance(x := trial.axis(view.x), int | float)})
    numbers = [(x, view.published([value, x])) for x in xs]
    return replace(series, published=tuple((float(x), number) for x, number in numbers if number is not None))


def _progress_notes(trials: Sequence[Trial], view: CurveView | ReachView) -> list[str]:
    """Where seconds and operations are from, and for which runs they are not known."""
    if view.x not in ("seconds", "flops"):
        return []
    present = [trial for trial in trials if trial.run is not None and trial.run.metrics]
    known: dict[str, set[int]] = {}
    unknown: dict[str, set[int]] = {}
    for trial in present:
        of = unknown if trial.run and progress_of(trial, trial.run.metrics[-1], view.x) is None else known
        of.setdefault(trial.label, set()).add(trial.seed)
    notes = []
    if view.x == "seconds" and present:
        timed = [seconds_of_step(trial)[1] for trial in present]
        sources = " or ".join(dict.fromkeys(TIMING_FILE if one else "the run itself" for one in timed))
        notes.append(f"Training time: steps times the median time of a step, from {sources}.")
        notes += _machines(
            {
                trial.timing.machine if of and trial.timing else trial.run.machine
                for trial, of in zip(present, timed, strict=True)
                if trial.run
            }
        )
    if unknown:
        what = "time" if view.x == "seconds" else "number of operations"
        mend = "it comes with `fgcli bench --timing`"
        listed = (
            f"{label} (seed {', '.join(map(str, sorted(seeds)))})" if label in known else label
            for label, seeds in unknown.items()
        )
        notes.append(f"Left out, as the {what} of a step is not known ({mend}): {', '.join(listed)}.")
    return notes


def _machines(machines: Iterable[str]) -> list[str]:
    found = sorted(set(machines))
    if len(found) == 1:
        return [f"Measured on {found[0]}."]
    return [f"Measured on different machines, not to be compared: {'; '.join(found)}."] if found else []
