"""What a sweep's views name must be there, and make sense. Imports no torch."""

import math
from collections.abc import Mapping
from typing import Any

from fgcli.errors import UsageError, unknown
from fgcli.extend.explain import shown
from fgcli.recipe import Source, dotted
from fgcli.runs.diagnostics import MOMENTS
from fgcli.runs.quantities import QUANTITIES
from fgcli.runs.results import METRICS
from fgcli.sweep.schema import SEED, Sweep
from fgcli.sweep.views import LABEL, AnyView, CurveView, FigureView, ReachView, TableView, as_key
from fgcli.yaml_reader import Path


def check_views(source: Source, sweep: Sweep) -> None:
    """UsageError, with the place in the sweep's file, for an axis, a value or a label that the sweep does not have, and
    for what would show nothing."""
    for number, view in enumerate(sweep.views):
        _check_view(source, sweep, view, ("views", number))


def _check_view(source: Source, sweep: Sweep, view: AnyView, path: Path) -> None:
    """That what a view names is there: axes, their values, labels."""
    grid = {LABEL: sweep.labels(), SEED: sweep.grid.seed, **sweep.grid.axes}
    known = {axis: [as_key(value) for value in values] for axis, values in grid.items()}

    def axis(name: str | None, *rest: str | int) -> None:
        if name is not None and name not in known:
            raise unknown("key of grid", name, known, where=source.place((*path, *rest)))

    def value(name: str, given: object, *rest: str | int, key: bool = False) -> None:
        if as_key(given) not in known[name]:
            raise unknown(f"value of {name}", as_key(given), known[name], where=source.place((*path, *rest), key=key))

    def refuse(why: str, given: str, *rest: str) -> None:
        raise UsageError(f"{source.place((*path, *rest))}: {given!r} {why}")

    for name, chosen in view.where.items():
        if name not in known:
            raise unknown("key of grid", name, known, where=source.place((*path, "where", name), key=True))
        for one in chosen:
            value(name, one, "where", name)
    if isinstance(view, TableView):
        for name in view.rows:
            axis(name, "rows")
        axis(view.columns, "columns")
        if view.baseline is not None:
            value(LABEL, view.baseline, "baseline")
            if as_key(view.baseline) not in map(as_key, view.where.get(LABEL, known[LABEL])):
                refuse("is not among the labels of where", view.baseline, "baseline")
        if repeated := next((name for name in view.rows if [*view.rows, view.columns].count(name) > 1), None):
            refuse("stands twice among rows and columns", repeated, "rows")
    elif isinstance(view, FigureView):
        axis(view.x, "x")
        axis(view.by, "by")
        if not all(isinstance(one, int | float) and not isinstance(one, bool) for one in grid[view.x]):
            refuse("is no axis of numbers", view.x, "x")
    elif isinstance(view, CurveView):
        axis(view.by, "by")
        axis(view.panels, "panels")
        if view.y.key not in METRICS | MOMENTS:
            known_keys = ", ".join(METRICS | MOMENTS)
            refuse(f"is not recorded during training; curves are of {known_keys}", view.y.key, "y")
    elif isinstance(view, ReachView):
        axis(view.by, "by")
        if fault := METRICS[view.goal.key].fault(view.goal.value):
            place = source.place((*path, "goal", "value"))
            raise UsageError(f"{place}: goal {view.goal.key} is {view.goal.value:g}; {fault}")
        if view.y.key in METRICS | MOMENTS:
            refuse("changes during training; beside a goal stands what a step or a whole run takes", view.y.key, "y")
    else:
        axis(view.panels, "panels")
    if isinstance(view, TableView | FigureView):
        values = [one.key for one in (view.value if isinstance(view, TableView) else [view.y])]
        late = next((key for key in values if key not in METRICS), None)
        if view.at is not None and late:
            refuse(f"is not evaluated during training; at is for {', '.join(METRICS)}", late, "at")
        levels = [(level, values if level == "value" else known[level]) for level in view.reference_axes]
        _check_reference(source, view.reference, levels, (*path, "reference"), values)


def _check_reference(
    source: Source, found: object, levels: list[tuple[str, list[Any]]], path: Path, values: list[str]
) -> None:
    """That numbers are given by the levels' values, and that they are possible ones of the quantity, the last of
    `values` or of the path."""
    called = f"{source.place(path)}: {dotted(path)}"
    if not levels:
        if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
            raise UsageError(f"{called} is {shown(found)}; it must be a finite number")
        key = next((step for step in reversed(path) if step in values), values[0])
        if fault := QUANTITIES[str(key)].fault(found):
            raise UsageError(f"{called} is {shown(found)}; {fault}")
        return
    (name, allowed), *rest = levels
    if not isinstance(found, Mapping):
        raise UsageError(f"{called} is {shown(found)}; it must be a mapping of values of {name}")
    for key, inner in found.items():
        if key not in allowed:
            raise unknown(f"value of {name}", key, allowed, where=source.place((*path, key), key=True))
        _check_reference(source, inner, rest, (*path, key), values)
