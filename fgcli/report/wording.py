"""The lines of a cell and the notes under a table: the same words in every format. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence

from fgcli.report.alike import left_out_notes, unlike_notes
from fgcli.report.document import BOLD, TWO, Cell, Line, Table, axis_name, axis_texts
from fgcli.report.trials import State, Trial
from fgcli.report.values import PROGRESS, ends_before
from fgcli.runs.quantity import Quantity
from fgcli.runs.results import METRICS
from fgcli.runs.timing import TIMING
from fgcli.sweep.views import LABEL, Budget, TableView

LISTED = 12  # groups of trials that a note names


def lines_of(cell: Cell, quantity: Quantity) -> tuple[Line, ...]:
    """What a cell says: its value; quartiles; the difference to the baseline; the published number."""
    if not cell.trials:
        return ()
    lines = [Line(_value(cell, quantity), "value")]
    if cell.quartiles is not None:
        lower, upper = map(quantity.text, cell.quartiles)
        lines.append(Line(f"{lower} to {upper}", "spread"))
    if cell.comparison is not None:
        if cell.comparison.ratio is not None:
            lines.append(Line(f"×{ratio_text(cell.comparison.ratio)}", "difference"))
        elif (difference := cell.comparison.difference) is not None:
            text = difference.text(quantity, sign=True)
            p = "" if cell.comparison.p_corrected is None else f", p {p_text(cell.comparison.p_corrected)}"
            lines.append(Line(f"{text}{p}", "difference"))
    if (reference := cell.reference) is not None:
        held = "" if reference.inside is None else (" inside" if reference.inside else " outside")
        lines.append(Line(f"{reference.name} {quantity.text(reference.number)}{held}", "reference"))
    return tuple(lines)


def _value(cell: Cell, quantity: Quantity) -> str:
    found, wanted = len(cell.numbers), len(cell.trials)
    if cell.mean is None:
        return f"missing (0 of {wanted})" if wanted > 1 else "missing"
    text = f"{cell.mean.text(quantity)}{cell.mark}"
    return text if found == wanted else f"{text} ({found} of {wanted})"


def p_text(p: float) -> str:
    return "<0.0001" if p < 1e-4 else f"{p:.4f}" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def ratio_text(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}"


def notes_of(
    table: Table,
    view: TableView,
    budget: Budget | None,
    machines: Mapping[str, str],
    trials: Sequence[Trial],
    axes: Sequence[str],
) -> tuple[str, ...]:
    """What a reader of the table has to know."""
    cells = [cell for row in table.rows for cell in row.cells]
    notes = [view.note] if view.note else []
    if not any(cell.numbers for cell in cells):
        notes.append("No finished run has a number for this table yet.")
    if view.at is not None and budget is not None:
        metrics = [i for i, column in enumerate(table.columns) if column.quantity.key in METRICS]
        without = [trial for row in table.rows for i in metrics for trial in row.cells[i].missing]
        notes += budget_notes(view.at, {table.title: budget}, trials, without, axes)
    seeded = [
        row.cells[i]
        for row in table.rows
        for i, column in enumerate(table.columns)
        if column.quantity.key not in TIMING
    ]
    counts = sorted({cell.mean.n for cell in seeded if cell.mean})
    if counts and counts[-1] > 2:
        several = dict.fromkeys(str(n) for n in (min(n for n in counts if n != 2), counts[-1]))
        notes.append(f"Mean ± 95 % t-interval over seeds, n = {' to '.join(several)}.")
    if 2 in counts:
        notes.append(TWO)
    elif counts == [1]:
        notes.append("One seed each, so no intervals.")
    if any(cell.best for cell in cells):
        notes.append(f"{BOLD}{_with_the_same(table)}.")
    notes += _comparison_notes(cells)
    notes += _reference_notes(cells)
    if any(cell.quartiles for cell in cells):
        notes.append("Of steps timed in turn: the median, and from the lower to the upper quartile.")
    timed = {column.quantity.key in TIMING for column in table.columns}
    if timed == {True, False}:
        notes += missing_notes([cell.trials[0] for cell in cells if cell.trials], axes, timed=True)
    sized = any(column.quantity.of_machine for column in table.columns)
    notes += _machine_notes(machines, "Time and memory" if sized else "Training time")
    notes += [*unlike_notes(trials, axes), *left_out_notes(trials)]
    notes += missing_notes(trials, axes, timed=timed == {True})
    return tuple(notes)


def _with_the_same(table: Table) -> str:
    """In what the rows are alike of which one is best; nothing where all are compared."""
    if LABEL not in (*table.row_axes, table.column_axis):
        return ""
    heads = zip(table.row_axes, zip(*(row.heads for row in table.rows), strict=True), strict=True)
    axes = [axis_name(axis) for axis, values in heads if axis != LABEL and len(set(values)) > 1]
    return f" with the same {' and '.join(axes)}" if axes else ""


def budget_notes(
    asked: Budget, spent: Mapping[str, Budget], trials: Iterable[Trial], without: Iterable[Trial], axes: Sequence[str]
) -> list[str]:
    """What all of each panel have spent; which finished runs have not spent what was asked for, or have no number."""
    quantity = PROGRESS[asked.x]
    texts = {title: "nothing yet" if one.value is None else quantity.text(one.value) for title, one in spent.items()}
    alike = len(set(texts.values())) == 1
    said = next(iter(texts.values())) if alike else "; ".join(f"{title}, {text}" for title, text in texts.items())
    notes = [f"Each at its last evaluation within the same {quantity.heading}: {said}."]
    short = dict.fromkeys(trial.label for trial in trials if trial.result and ends_before(trial, asked))
    if short:
        notes.append(f"Ended before it: {', '.join(short)}.")
    if lacking := [trial for trial in without if trial.result]:
        notes.append(f"No evaluation within it: {_listed(lacking, axes)}.")
    return notes


def _comparison_notes(cells: Iterable[Cell]) -> list[str]:
    comparisons = [cell.comparison for cell in cells if cell.comparison]
    notes: list[str] = []
    if any(one.difference for one in comparisons):
        tested = sum(one.p_corrected is not None for one in comparisons)
        what = f"With a sign: the mean of the differences to {comparisons[0].baseline} with the same seed"
        intervals = any(one.difference and one.difference.n > 2 for one in comparisons)
        what += " ± 95 % t-interval" * intervals
        many = f"{tested} comparisons" if tested > 1 else "one comparison"
        test = f"; p of the paired t-test, corrected for the {many} here (Holm)"
        notes.append(f"{what}{test if tested else ''}.")
    if any(one.ratio is not None for one in comparisons):
        notes.append(f"×: the ratio of the means to that of {comparisons[0].baseline}.")
    return notes


def _reference_notes(cells: Iterable[Cell]) -> list[str]:
    references = [cell.reference for cell in cells if cell.reference]
    if not references:
        return []
    names = " and ".join(dict.fromkeys(one.name for one in references))
    held = any(one.inside is not None for one in references)
    how = "; inside or outside of the 95 % prediction interval that our runs give for one further run" if held else ""
    return [f"{names}: the published number, of a single run{how}."]


def _machine_notes(machines: Mapping[str, str], what: str) -> list[str]:
    if not machines:
        return []
    if "" in machines:
        return [f"{what}: {machines['']}."]
    listed = "; ".join(f"{mark} {machine}" for mark, machine in machines.items())
    return [f"{what}, of different machines, not to be compared: {listed}."]


def missing_notes(trials: Iterable[Trial], axes: Sequence[str], *, timed: bool) -> list[str]:
    """Which trials have no result, by the reason. Of what `timed` measures in turn, no trial has to be run."""
    if timed:
        unmeasured = any(trial.timing is None for trial in trials)
        return ["What is measured in turn is missing where `fgcli bench --timing` has not measured it."] * unmeasured
    found: dict[State, list[Trial]] = {}
    for trial in trials:
        if trial.state is not State.FINISHED:
            found.setdefault(trial.state, []).append(trial)
    return [f"{state.value.capitalize()}: {_listed(of, axes)}." for state, of in found.items()]


def _listed(trials: Iterable[Trial], axes: Sequence[str]) -> str:
    """Trials by label and axes, each with its seeds."""
    groups: dict[str, dict[str, None]] = {}
    for trial in trials:
        group = ", ".join([trial.label, *axis_texts((axis, trial.axis(axis)) for axis in axes)])
        seed = f"{trial.seed}: {trial.reason}" if trial.reason else str(trial.seed)
        groups.setdefault(group, {})[seed] = None
    listed = [f"{group} (seed {', '.join(seeds)})" for group, seeds in list(groups.items())[:LISTED]]
    return "; ".join([*listed, *([f"and {len(groups) - LISTED} more"] if len(groups) > LISTED else [])])
