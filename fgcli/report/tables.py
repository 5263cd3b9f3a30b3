"""Tables from trials and a view: means over seeds, comparisons, published numbers. Imports no torch."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from fgcli.report.chapters import Chapter
from fgcli.report.document import Cell, Column, Comparison, Reference, Row, Table, axis_texts
from fgcli.report.statistics import holm, mean_interval, next_interval, paired_difference
from fgcli.report.trials import Trial
from fgcli.report.values import (
    common_budget,
    hangs_on_machine,
    machine_of,
    number_of,
    quantity_of,
    quartiles_of,
)
from fgcli.report.wording import lines_of, notes_of
from fgcli.runs.quantity import Quantity
from fgcli.runs.timing import TIMING
from fgcli.sweep.views import LABEL, FigureView, TableView, Value, View, as_key

_MARKS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"


@dataclass(frozen=True)
class _Place:
    """A cell before its number is known: its value, and its place on the axes."""

    value: Value
    quantity: Quantity
    at: tuple[tuple[str, object], ...]


def make_tables(chapter: Chapter, view: TableView, baseline: str | None = None) -> list[Table]:
    """One table, or one for each value of an axis that the view neither shows nor fixes. `baseline` is the user's."""
    named = (*view.rows, *([view.columns] if view.columns else []))
    baseline = baseline or view.baseline
    tables: list[Table] = []
    for fixed, trials in split(chapter, view, named):
        title = ", ".join([view.title, *axis_texts(fixed.items())])
        tables.append(_make_table(replace(chapter, trials=trials), view, title, baseline))
    return tables


def split(chapter: Chapter, view: View, named: Iterable[str]) -> Iterator[tuple[dict[str, object], tuple[Trial, ...]]]:
    """The view's trials by the values of each axis that it does not name, so that nothing is averaged but seeds."""
    trials = tuple(trial for trial in chapter.trials if _chosen(trial, view))
    shown = replace(chapter, trials=trials)
    others = [axis for axis in (LABEL, *chapter.axes) if axis not in named and len(shown.values(axis)) > 1]
    for values in product(*(shown.values(axis) for axis in others)):
        fixed = dict(zip(others, values, strict=True))
        some = tuple(trial for trial in trials if all(_is(trial, axis, value) for axis, value in fixed.items()))
        if some or not others:
            yield fixed, some


def _chosen(trial: Trial, view: View) -> bool:
    return all(as_key(trial.axis(axis)) in map(as_key, allowed) for axis, allowed in view.where.items())


def _is(trial: Trial, axis: str, value: object) -> bool:
    return as_key(trial.axis(axis)) == as_key(value)


def _make_table(chapter: Chapter, view: TableView, title: str, baseline: str | None) -> Table:
    budget = common_budget(chapter.trials, view.at) if view.at else None
    heads = list(dict.fromkeys(tuple(as_key(trial.axis(axis)) for axis in view.rows) for trial in chapter.trials))
    order = {axis: [as_key(value) for value in chapter.values(axis)] for axis in view.rows}
    heads.sort(key=lambda head: [order[axis].index(value) for axis, value in zip(view.rows, head, strict=True)])
    across: list[object] = chapter.values(view.columns) if view.columns else [None]
    columns = [(value, one) for value in view.value for one in across]
    cells: dict[tuple[int, int], Cell] = {}
    places: dict[tuple[int, int], _Place] = {}
    for (i, head), (j, (value, one)) in product(enumerate(heads), enumerate(columns)):
        at = (*zip(view.rows, head, strict=True), *([(view.columns, as_key(one))] if view.columns else []))
        places[i, j] = _Place(value, quantity_of(value), at)
        trials = tuple(trial for trial in chapter.trials if all(_is(trial, axis, key) for axis, key in at))
        if value.key in TIMING:
            trials = trials[:1]  # timing.json has one for all seeds
        numbers = tuple((t.seed, n) for t in trials if (n := number_of(t, value, budget)) is not None)
        have = {seed for seed, _ in numbers}
        machines = tuple(sorted({machine_of(trial, value, budget) for trial in trials if trial.seed in have}))
        mean = mean_interval([number for _, number in numbers]) if numbers else None
        quartiles = quartiles_of(trials[0], value) if trials else None
        cell = Cell(trials, numbers, mean, machines=machines, quartiles=quartiles)
        keys = [*head, *([as_key(one)] if view.columns else []), *([value.key] if len(view.value) > 1 else [])]
        cells[i, j] = replace(cell, reference=_reference(view, keys, cell, places[i, j].quantity))
    machines = _marked(cells, {at for at, place in places.items() if hangs_on_machine(place.value, budget)})
    compared = _compared(cells, places, baseline)
    best = _best(compared, places)
    done = {
        at: replace(cell, best=at in best, lines=lines_of(replace(cell, best=at in best), places[at].quantity))
        for at, cell in compared.items()
    }
    rows = tuple(Row(head, tuple(done[i, j] for j in range(len(columns)))) for i, head in enumerate(heads))
    made = tuple(Column(quantity_of(value), None if one is None else as_key(one)) for value, one in columns)
    table = Table(title, tuple(view.rows), view.columns, made, rows, ())
    return replace(table, notes=notes_of(table, view, budget, machines, chapter.trials, chapter.axes))


def _reference(view: TableView | FigureView, keys: Sequence[str], cell: Cell, quantity: Quantity) -> Reference | None:
    number = view.published(keys)
    if number is None:
        return None
    if len(cell.numbers) < 2 or quantity.of_machine:
        return Reference(view.reference_name, number, None, None, None)
    interval = next_interval([one for _, one in cell.numbers])
    low, high = interval.mean - (interval.half or 0), interval.mean + (interval.half or 0)
    # As they are written: a number printed as 1.000 is not outside of an interval that ends at 0.9998.
    inside = quantity.rounded(low) <= quantity.rounded(number) <= quantity.rounded(high)
    return Reference(view.reference_name, number, low, high, inside)


def _marked(cells: dict[tuple[int, int], Cell], hanging: Container[tuple[int, int]]) -> dict[str, str]:
    """Give cells whose number hangs on the machine a mark where several machines are in the table.

    Returns the machines by their marks; a single one by "".
    """
    of_machine = [at for at in cells if at in hanging]
    found = dict.fromkeys(machine for at in of_machine for machine in cells[at].machines)
    if len(found) < 2:
        return dict(zip([""], found, strict=False))
    marks = {machine: _MARKS[number % len(_MARKS)] for number, machine in enumerate(found)}
    for at in of_machine:
        cells[at] = replace(cells[at], mark="".join(marks[machine] for machine in cells[at].machines))
    return {mark: machine for machine, mark in marks.items()}


def _compared(
    cells: Mapping[tuple[int, int], Cell], places: Mapping[tuple[int, int], _Place], baseline: str | None
) -> dict[tuple[int, int], Cell]:
    """The cells with what sets them apart from the baseline's cell at the same place on the other axes."""
    done = dict(cells)
    if baseline is None:
        return done
    by_place = {_elsewhere(place, label=None): cells[at] for at, place in places.items()}
    for at, place in places.items():
        theirs = by_place.get(_elsewhere(place, label=baseline))
        ours = cells[at]
        if theirs is None or theirs is ours or ours.mean is None or theirs.mean is None or ours.mark != theirs.mark:
            continue
        if place.quantity.of_machine or place.value.key in TIMING:
            if theirs.mean.mean:
                done[at] = replace(ours, comparison=Comparison(baseline, ratio=ours.mean.mean / theirs.mean.mean))
        elif len(set(ours.numbers)) and (found := paired_difference(dict(ours.numbers), dict(theirs.numbers))):
            done[at] = replace(ours, comparison=Comparison(baseline, found))
    return _holm_corrected(done)


def _holm_corrected(cells: dict[tuple[int, int], Cell]) -> dict[tuple[int, int], Cell]:
    tested = {
        at: cell.comparison
        for at, cell in cells.items()
        if cell.comparison and cell.comparison.difference and cell.comparison.difference.p is not None
    }
    raw = [one.difference.p for one in tested.values() if one.difference and one.difference.p is not None]
    for (at, comparison), p in zip(tested.items(), holm(raw), strict=True):
        cells[at] = replace(cells[at], comparison=replace(comparison, p_corrected=p))
    return cells


def _elsewhere(place: _Place, label: str | None) -> object:
    """A place on all axes; `label`, where given, in place of its own."""
    at = ((axis, label if axis == LABEL and label is not None else value) for axis, value in place.at)
    return place.value, frozenset(at)


def _best(cells: Mapping[tuple[int, int], Cell], places: Mapping[tuple[int, int], _Place]) -> set[tuple[int, int]]:
    """The cells with the best mean among those that differ in the label alone (or, where labels are not shown, of a
    column). None where a comparison has one cell, or several machines."""
    labelled = any(axis == LABEL for place in places.values() for axis, _ in place.at)
    groups: dict[object, list[tuple[int, int]]] = {}
    for at, place in places.items():
        if cells[at].mean is not None and place.quantity.better is not None:
            key = _elsewhere(place, label="") if labelled else at[1]
            groups.setdefault(key, []).append(at)
    best: set[tuple[int, int]] = set()
    for group in groups.values():
        means = {at: cell.mean.mean for at in group if (cell := cells[at]).mean}
        if len(means) > 1 and len({cells[at].mark for at in means}) == 1:
            top = (max if places[group[0]].quantity.better == "higher" else min)(means.values())
            best |= {at for at, mean in means.items() if mean == top}
    return best
