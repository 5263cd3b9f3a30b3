"""A document as Markdown: its tables with their notes, its figures as tables. Imports no torch."""

import re
from collections.abc import Iterable

from fgcli.errors import one_line
from fgcli.report.document import NOTHING, Cell, Document, Figure, Series, Table, axis_name, is_bold, undrawn


def markdown(document: Document) -> str:
    """Tables as GitHub shows them; a figure as a table of its lines' last points."""
    parts: list[str] = []
    for section in document.sections:
        parts += [f"## {_plain(section.title)}", _block(section.description)]
        for item in section.items:
            parts.append(f"### {_plain(item.title)}")
            parts.append(_markdown_table(item) if isinstance(item, Table) else _markdown_figure(item))
            parts.append("\n".join(f"- {_block(note)}" for note in undrawn(item.notes)))
    if document.problems:
        parts.append("## Not reported, or in part")
        parts.append("\n".join(f"- {_block(one.path)}: {_plain(one.reason)}" for one in document.problems))
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: Table) -> str:
    heads = [axis_name(axis) for axis in table.row_axes]
    aligned = ["---"] * len(heads) + ["---:"] * len(table.columns)
    rows = ([*map(_plain, table.heads(row)), *map(_markdown_cell, row.cells)] for row in table.rows)
    return _pipes([map(_plain, [*heads, *table.headings]), aligned, *rows])


def _markdown_figure(figure: Figure) -> str:
    heads = ["", "", f"last {figure.x.quantity.heading}", figure.y.quantity.heading, ""]
    rows = (
        [panel.title, series.name, *_last(figure, series), series.incomplete]
        for panel in figure.panels
        for series in panel.series
    )
    return _pipes([map(_plain, heads), ["---", "---", "---:", "---:", "---"], *(map(_plain, row) for row in rows)])


def _last(figure: Figure, series: Series) -> list[str]:
    if not series.points:
        return [NOTHING, NOTHING]
    point = series.points[-1]
    return [figure.x.quantity.text(point.x), point.y.text(figure.y.quantity)]


def _pipes(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _markdown_cell(cell: Cell) -> str:
    texts = [f"**{_plain(line.text)}**" if is_bold(cell, line) else _plain(line.text) for line in cell.lines]
    return "<br>".join(texts) or NOTHING


def _block(text: str) -> str:
    """The same at the beginning of a line, where "1." and "-" would begin a list."""
    return re.sub(r"^(\d*)([-+=.)])", r"\1\\\2", _plain(text))


def _plain(text: str) -> str:
    """Text that Markdown does not read as anything else."""
    plain = one_line(" ".join(text.split()))
    escaped = "".join(f"\\{char}" if char in "\\`*_[]|#~" else char for char in plain)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
