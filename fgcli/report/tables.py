"""Tables from trials and a view: means over seeds, comparisons, published numbers. Imports no torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from fgcli.report.chapters import Chapter
from fgcli.report.document import Cell, Column, Comparison, Reference, Row, Table, axis_texts
from fgcli.report.statistics import Difference, holm, mean_interval, next_interval, paired_difference
from fgcli.report.trials import Trial
from fgcli.report.values import common_budget, hangs_on_machine, machine_of, number_of, quantity_of, quartiles_of
from fgcli.report.wording import lines_of, notes_of
from fgcli.runs.quantity import Quantity
from fgcli.runs.timing import TIMING
from fgcli.sweep.views import LABEL, Budget, TableView, Value, View, as_key

_MARKS = "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ"


@dataclass(frozen=True)
class _Placed:
    """A cell with its value, its place on the axes, and its column."""

    cell: Cell
    value: Value
    quantity: Quantity
    at: tuple[tuple[str, object], ...]
    column: int

    def elsewhere(self, label: str | None) -> object:
        """The place on all axes, with `label` for its own where one is given."""
        at = ((axis, label if axis == LABEL and label is not None else value) for axis, value in self.at)
        return self.value, frozenset(at)


def make_tables(chapter: Chapter, view: TableView, baseline: str | None = None) -> list[Table]:
    """One table, or one for each value of an axis that the view neither shows nor fixes. `baseline` is the user's."""
    named = (*view.rows, *([view.columns] if view.columns else []))
    baseline = baseline or view.baseline
    tables: list[Table] = []
    for said, trials in split(chapter, view, named):
        title = ", ".join(filter(None, [view.title, said]))
        tables.append(_make_table(replace(chapter, trials=trials), view, title, baseline))
    return tables


def split(chapter: Chapter, view: View, named: Iterable[str]) -> Iterator[tuple[str, tuple[Trial, ...]]]:
    """The view's trials by the values of each axis that it does not name, which are said: only seeds are averaged."""
    trials = tuple(
        trial
        for trial in chapter.trials
        if all(as_key(trial.axis(axis)) in map(as_key, allowed) for axis, allowed in view.where.items())
    )
    shown = replace(chapter, trials=trials)
    others = [axis for axis in (LABEL, *chapter.axes) if axis not in named and len(shown.values(axis)) > 1]
    for values in product(*(shown.values(axis) for axis in others)):
        fixed = dict(zip(others, values, strict=True))
        some = tuple(trial for trial in trials if all(_is(trial, axis, value) for axis, value in fixed.items()))
        if some or not others:
            yield ", ".join(axis_texts(fixed.items())), some


def _is(trial: Trial, axis: str, value: object) -> bool:
    return as_key(trial.axis(axis)) == as_key(value)


def _make_table(chapter: Chapter, view: TableView, title: str, baseline: str | None) -> Table:
    budget = common_budget(chapter.trials, view.at) if view.at else None
    heads = list(dict.fromkeys(tuple(as_key(trial.axis(axis)) for axis in view.rows) for trial in chapter.trials))
    order = {axis: [as_key(value) for value in chapter.values(axis)] for axis in view.rows}
    heads.sort(key=lambda head: [order[axis].index(value) for axis, value in zip(view.rows, head, strict=True)])
    across: list[object] = chapter.values(view.columns) if view.columns else [None]
    columns = [(value, one) for value in view.value for one in across]
    placed: list[_Placed] = []
    for head, (number, (value, one)) in product(heads, enumerate(columns)):
        at = (*zip(view.rows, head, strict=True), *([(view.columns, as_key(one))] if view.columns else []))
        trials = tuple(trial for trial in chapter.trials if all(_is(trial, axis, key) for axis, key in at))
        cell, quantity = _cell(trials, value, budget), quantity_of(value)
        keys = [*head, *([as_key(one)] if view.columns else []), *([value.key] if len(view.value) > 1 else [])]
        cell.reference = _reference(view, keys, cell, quantity)
        placed.append(_Placed(cell, value, quantity, at, number))
    machines = _mark_machines([one.cell for one in placed if hangs_on_machine(one.value, budget)])
    if baseline is not None:
        _compare(placed, baseline)
    _mark_best(placed)
    for one in placed:
        one.cell.lines = lines_of(one.cell, one.quantity)
    cells = iter(one.cell for one in placed)
    rows = tuple(Row(head, tuple(islice(cells, len(columns)))) for head in heads)
    made = tuple(Column(quantity_of(value), None if one is None else as_key(one)) for value, one in columns)
    table = Table(title, tuple(view.rows), view.columns, made, rows, ())
    return replace(table, notes=notes_of(table, view, budget, machines, chapter.trials, chapter.axes))


def _cell(trials: tuple[Trial, ...], value: Value, budget: Budget | None) -> Cell:
    if value.key in TIMING:
        trials = trials[:1]  # timing.json has one for all seeds
    numbers = tuple((t.seed, n) for t in trials if (n := number_of(t, value, budget)) is not None)
    have = {seed for seed, _ in numbers}
    machines = tuple(sorted({machine_of(trial, value, budget) for trial in trials if trial.seed in have}))
    mean = mean_interval([number for _, number in numbers]) if numbers else None
    return Cell(trials, numbers, mean, machines=machines, quartiles=quartiles_of(trials[0], value) if trials else None)


def _reference(view: TableView, keys: Sequence[str], cell: Cell, quantity: Quantity) -> Reference | None:
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


def _mark_machines(cells: Sequence[Cell]) -> dict[str, str]:
    """Give cells, whose numbers hang on the machine, a mark where there are several machines.

    Returns the machines by their marks; a single one by "".
    """
    found = dict.fromkeys(machine for cell in cells for machine in cell.machines)
    if len(found) < 2:
        return dict(zip([""], found, strict=False))
    marks = {machine: _MARKS[number % len(_MARKS)] for number, machine in enumerate(found)}
    for cell in cells:
        cell.mark = "".join(marks[machine] for machine in cell.machines)
    return {mark: machine for machine, mark in marks.items()}


def _compare(placed: Sequence[_Placed], baseline: str) -> None:
    """Note what sets the cells apart from the baseline's cell at the same place on the other axes."""
    by_place = {one.elsewhere(None): one.cell for one in placed}
    differences: list[tuple[Cell, Difference]] = []
    for one in placed:
        ours, theirs = one.cell, by_place.get(one.elsewhere(baseline))
        if theirs is None or theirs is ours or ours.mean is None or theirs.mean is None or ours.mark != theirs.mark:
            continue
        if one.quantity.of_machine or one.value.key in TIMING:
            if theirs.mean.mean:
                ours.comparison = Comparison(baseline, ratio=ours.mean.mean / theirs.mean.mean)
        elif found := paired_difference(dict(ours.numbers), dict(theirs.numbers)):
            differences.append((ours, found))
    corrected = iter(holm([found.p for _, found in differences if found.p is not None]))
    for cell, found in differences:
        cell.comparison = Comparison(baseline, found, None if found.p is None else next(corrected))


def _mark_best(placed: Sequence[_Placed]) -> None:
    """The cells with the best mean among those that differ in the label alone (or, where labels are not shown, of a
    column). None where a comparison has one cell, or several machines."""
    labelled = any(axis == LABEL for one in placed for axis, _ in one.at)
    groups: dict[object, list[tuple[float, _Placed]]] = {}
    for one in placed:
        if one.cell.mean is not None and one.quantity.better is not None:
            key = one.elsewhere("") if labelled else one.column
            groups.setdefault(key, []).append((one.cell.mean.mean, one))
    for group in groups.values():
        if len(group) > 1 and len({one.cell.mark for _, one in group}) == 1:
            top = (max if group[0][1].quantity.better == "higher" else min)(mean for mean, _ in group)
            for mean, one in group:
                one.cell.best = mean == top
