"""A document for a terminal: tables, and a sparkline for each line of a figure. Imports no torch."""

import math
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table as Grid
from rich.text import Text

from fgcli.errors import one_line
from fgcli.report.document import (
    BOLD,
    NOTHING,
    Axis,
    Cell,
    Document,
    Figure,
    Panel,
    Section,
    Series,
    Table,
    axis_name,
    axis_texts,
    undrawn,
)
from fgcli.report.sparkline import sparkline

_STYLES = {"value": "", "spread": "dim", "difference": "cyan", "reference": "dim"}


def show(document: Document, console: Console | None = None) -> None:
    """Print the whole report."""
    console = console or Console()
    console.print(shown(document))
    for line in problem_lines(document):
        console.print(line, soft_wrap=True)  # a path that is cut or wrapped cannot be copied


def shown(document: Document) -> RenderableType:
    """Its chapters."""
    return Group(*(part for section in document.sections for part in _section(section)))


def problem_lines(document: Document) -> Iterator[Text]:
    """What is not in them, and why."""
    if document.problems:
        yield Text("Not reported, or in part", style="bold")
        for problem in document.problems:
            yield _text(f"{problem.path}: {problem.reason}", style="yellow")


class _Fitting:
    """A wide layout where it fits the terminal, else a narrow one."""

    def __init__(self, wide: RenderableType, narrow: RenderableType) -> None:
        self.wide, self.narrow = wide, narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.wide if _fits(self.wide, console, options) else self.narrow


class _Columns:
    """A table, its columns in as many pieces as the terminal asks for; a list where not even one column fits."""

    def __init__(self, table: Table) -> None:
        self.table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        pieces: list[Grid] = []
        start, count = 0, len(self.table.columns)
        while start < count:
            ends = range(count, start, -1)
            grids = ((end, _grid(self.table, slice(start, end))) for end in ends)
            found = next(((end, grid) for end, grid in grids if _fits(grid, console, options)), None)
            if found is None:
                yield _list(self.table)
                return
            start = found[0]
            pieces.append(found[1])
        yield from pieces


class _Notes:
    """What a reader has to know, a line each; nothing of bold where the output has none, nor of axes."""

    def __init__(self, notes: Sequence[str]) -> None:
        self.notes = notes

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        notes = [note for note in undrawn(self.notes) if console.color_system or not note.startswith(BOLD)]
        yield from (_text(note, style="dim") for note in notes)


def _fits(wanted: RenderableType, console: Console, options: ConsoleOptions) -> bool:
    return Measurement.get(console, options.update(max_width=10_000), wanted).maximum <= options.max_width


def _section(section: Section) -> Iterator[RenderableType]:
    yield _text(section.title, style="bold underline")
    if section.description:
        yield _text(section.description.strip())
    for item in section.items:
        yield Text("")
        yield _text(item.title, style="bold")
        if isinstance(item, Table):
            yield _Columns(item)
        else:
            yield from (_sparklines(item, panel) for panel in item.panels)
        yield _Notes(item.notes)
    yield Text("")


def _text(text: str, style: str = "") -> Text:
    """What recipes and runs say, with nothing in it that a terminal would obey."""
    return Text("\n".join(map(one_line, text.split("\n"))), style=style)


def _grid(table: Table, columns: slice) -> Grid:
    grid = Grid(show_lines=any(len(cell.lines) > 1 for row in table.rows for cell in row.cells))
    for axis in table.row_axes:
        grid.add_column(_text("" if axis == "label" else axis_name(axis)), no_wrap=True)
    for heading in table.headings[columns]:
        grid.add_column(_text(heading), justify="right", no_wrap=True)
    for row in table.rows:
        grid.add_row(*map(_text, table.heads(row)), *map(_cell, row.cells[columns]))
    return grid


def _list(table: Table) -> Group:
    """Every row with its columns under each other."""
    lines: list[RenderableType] = []
    for row in table.rows:
        head = axis_texts(zip(table.row_axes, row.heads, strict=True))
        lines.append(_text(", ".join(head), style="bold"))
        for heading, cell in zip(table.headings, row.cells, strict=True):
            parts = [_text(f"{heading}:"), _cell(cell)]
            parts = parts if len(cell.lines) > 1 else [Text(" ").join(parts)]
            lines += [Padding(part, (0, 0, 0, 2 + 2 * depth)) for depth, part in enumerate(parts)]
    return Group(*lines)


def _cell(cell: Cell) -> Text:
    if not cell.lines:
        return Text(NOTHING)
    styles = ["bold" if line.role == "value" and cell.best else _STYLES[line.role] for line in cell.lines]
    if cell.mean is None:
        styles[0] = "yellow"
    return Text("\n").join(_text(line.text, style=style) for line, style in zip(cell.lines, styles, strict=True))


def _sparklines(figure: Figure, panel: Panel) -> RenderableType:
    numbers = [point.y.mean for one in figure.panels for series in one.series for point in series.points]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 1.0)
    wide, narrow = Grid.grid(padding=(0, 2, 0, 0)), []
    for series in panel.series:
        curve = _sparkline(series, figure.y, low, high)
        words = [_ends(series, figure), series.incomplete]
        wide.add_row(_text(series.name), Text(curve, no_wrap=True), *(_text(word) for word in words))
        narrow += [_text(text) for text in (series.name, curve[:16], *words) if text]
    head = _text(panel.title, style="italic") if panel.title else None
    axes = _text(f"{figure.y.quantity.heading} over {figure.x.quantity.heading}", style="dim")
    body = Padding(_Fitting(wide, Group(*narrow)), (0, 0, 0, 2))
    return Group(*([head] if head else []), axes, body)


def _sparkline(series: Series, y: Axis, low: float, high: float) -> str:
    values = [point.y.mean for point in series.points]
    if y.log and low > 0:
        values, low, high = [math.log(value) for value in values], math.log(low), math.log(high)
    return sparkline(values, low=low, high=high)


def _ends(series: Series, figure: Figure) -> str:
    """The first and the last point in words."""
    if not series.points:
        return "nothing yet"
    first, last = series.points[0], series.points[-1]
    y = figure.y.quantity
    begin = "" if first is last else f"{y.text(first.y.mean)} → "
    return f"{begin}{last.y.text(y)} at {figure.place(last.x)}"
