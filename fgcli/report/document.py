"""What a report says, in whatever form it is written: chapters of tables and figures. Knows no file and no format."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from fgcli.report.statistics import Difference, Mean
from fgcli.report.trials import Problem, Trial
from fgcli.runs.quantity import Quantity
from fgcli.sweep.views import spelled

Role = Literal["value", "spread", "difference", "reference"]
BOLD = "Bold: the best mean"
"""Begins the note of a table that has a best value; a format that has no bold leaves it out."""
BAND = ", drawn as a band"
CUT = "Intervals that go on beyond the axis are cut there."
"""In notes of figures: see `undrawn`."""
NOTHING = "–"
NO_VALUE = spelled(None)
TWO = "Of two seeds: the mean [and both numbers], as two are too few for an interval."
TWO_DRAWN = "Of two seeds: the mean, and a band from one number to the other, as two are too few for an interval."


def undrawn(notes: Iterable[str]) -> list[str]:
    """Notes for a format that draws no figures: without what is said of bands and axes."""
    return [TWO if note == TWO_DRAWN else note.replace(BAND, "") for note in notes if note != CUT]


@dataclass(frozen=True)
class Line:
    """One line of a cell."""

    text: str
    role: Role


@dataclass(frozen=True)
class Reference:
    """A published number, and the interval that it is held to; None where a single run gives none."""

    name: str
    number: float
    low: float | None
    high: float | None
    inside: bool | None


@dataclass(frozen=True)
class Comparison:
    """With the baseline: paired differences and their p-value corrected for the table's comparisons, or a ratio."""

    baseline: str
    difference: Difference | None = None
    p_corrected: float | None = None
    ratio: float | None = None


@dataclass
class Cell:
    """A value of one group of trials (all seeds of a label and axes). No trials: nothing was asked for there."""

    trials: tuple[Trial, ...]
    numbers: tuple[tuple[int, float], ...]
    """(seed, value) of those that have it."""
    mean: Mean | None
    lines: tuple[Line, ...] = ()
    quartiles: tuple[float, float] | None = None
    """Of single steps, where it is a time that was measured step by step."""
    best: bool = False
    machines: tuple[str, ...] = ()
    """Where its numbers were measured."""
    mark: str = ""
    """Tells machines apart, where the number depends on them and the table's differ."""
    comparison: Comparison | None = None
    reference: Reference | None = None

    @property
    def missing(self) -> tuple[Trial, ...]:
        seeds = {seed for seed, _ in self.numbers}
        return tuple(trial for trial in self.trials if trial.seed not in seeds)


@dataclass(frozen=True)
class Column:
    """A column of cells: a value, and the value of an axis where columns are of one."""

    quantity: Quantity
    axis_value: str | None


@dataclass(frozen=True)
class Row:
    """A row: what its rows' axes are, and its cells."""

    heads: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table, and what a reader has to know about it, a sentence each."""

    title: str
    row_axes: tuple[str, ...]
    column_axis: str | None
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def heads(self, row: "Row") -> tuple[str, ...]:
        """Of a row, in its first cells."""
        named = zip(self.row_axes, row.heads, strict=True)
        return tuple(NOTHING if axis != "label" and head == NO_VALUE else head for axis, head in named)

    @property
    def headings(self) -> tuple[str, ...]:
        """Of each column of cells, in a line: the axis's value, and the quantity where there are several."""
        several = len({column.quantity for column in self.columns}) > 1
        heads = []
        for column in self.columns:
            axis = [] if column.axis_value is None else [axis_text(self.column_axis or "", column.axis_value)]
            heads.append(", ".join([*axis, *([column.quantity.heading] if several or not axis else [])]))
        return tuple(heads)


@dataclass(frozen=True)
class Point:
    """A place on a line: mean over seeds, its interval, and the group that it is of."""

    x: float
    y: Mean
    trials: tuple[Trial, ...]
    values: tuple[float, ...]
    """What the mean is of."""


@dataclass(frozen=True)
class Series:
    """One line. `style` numbers its colour, dash and marker; `incomplete` says how many seeds it lacks."""

    name: str
    style: int
    points: tuple[Point, ...]
    incomplete: str = ""
    published: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Axis:
    """An axis of a figure."""

    quantity: Quantity
    log: bool = False


@dataclass(frozen=True)
class Panel:
    """One set of axes; all panels of a figure share their scales."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Figure:
    """A figure of one or more panels."""

    title: str
    x: Axis
    y: Axis
    panels: tuple[Panel, ...]
    notes: tuple[str, ...]

    def place(self, x: float) -> str:
        """Where a point is, in words: `epoch 20`, `training time 3.50 s`."""
        quantity = self.x.quantity
        return f"{quantity.title} {quantity.text(x)} {quantity.unit}".rstrip()


@dataclass(frozen=True)
class Section:
    """A chapter's content."""

    title: str
    description: str
    items: tuple[Table | Figure, ...]
    trials: tuple[Trial, ...]
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    sections: tuple[Section, ...]
    problems: tuple[Problem, ...]

    @property
    def items(self) -> Sequence[Table | Figure]:
        return [item for section in self.sections for item in section.items]

    @property
    def trials(self) -> Sequence[Trial]:
        return [trial for section in self.sections for trial in section.trials]

    def as_html(self) -> str:
        """The page that `fg report --html` writes.

        Returns:
            HTML that opens offline.
        """
        from fgcli.report.page import as_html

        return as_html(self)

    def _repr_html_(self) -> str:
        """The page, in a frame of its own, for notebooks."""
        return f'<iframe srcdoc="{escape(self.as_html())}" style="width: 100%; height: 40em; border: 0"></iframe>'


def is_bold(cell: Cell, line: Line) -> bool:
    """Whether a line is the best value of its comparison."""
    return cell.best and line.role == "value"


def axis_text(axis: str, value: object) -> str:
    """`width 512`; of the label, the label alone; a dash for what a run does not have."""
    if axis == "label":
        return str(value)
    return NOTHING if spelled(value) == NO_VALUE else f"{axis_name(axis)} {spelled(value)}"


def axis_texts(places: Iterable[tuple[str, object]]) -> list[str]:
    """The same of several, without what a run does not have: the width of a model that has no such option."""
    return [text for axis, value in places if (text := axis_text(axis, value)) != NOTHING]


def axis_name(axis: str) -> str:
    """`batch size` of batch_size, `dataset seed` of dataset_options.seed: words, which a narrow column may divide."""
    words = axis.removeprefix("options.").replace("_options.", " ").replace("_", " ")
    return "method" if axis == "label" else words
