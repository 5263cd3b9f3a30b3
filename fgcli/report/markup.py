"""A document as Markdown and as LaTeX, for papers: its tables, with their notes. Imports no torch."""

from collections.abc import Iterable

from fgcli.errors import one_line
from fgcli.report.document import Cell, Document, Figure, Line, Series, Table

NOTHING = "–"
_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\ensuremath{<}",
    ">": r"\ensuremath{>}",
    "±": r"\ensuremath{\pm}",
    "×": r"\ensuremath{\times}",
    "·": r"\ensuremath{\cdot}",
    "−": r"\ensuremath{-}",
    "–": "--",
    "‖": r"\ensuremath{\|}",
    "√": r"\ensuremath{\surd}",
    "⊥": r"\ensuremath{^\perp}",
    "ᵀ": r"\ensuremath{^\top}",
    "ᴾ": r"\ensuremath{^{\mathrm P}}",
    **{char: rf"\ensuremath{{^{plain}}}" for char, plain in zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True)},
    **{char: rf"\textsuperscript{{{plain}}}" for char, plain in zip("ᵃᵇᶜᵈᵉᶠᵍʰⁱ", "abcdefghi", strict=True)},
}
_TILDE = "\u0303"


def markdown(document: Document) -> str:
    """Tables as GitHub shows them; a figure as a table of its lines' last points."""
    parts: list[str] = []
    for section in document.sections:
        parts += [f"## {_plain(section.title)}", _plain(section.description)]
        for item in section.items:
            parts.append(f"### {_plain(item.title)}")
            parts.append(_markdown_table(item) if isinstance(item, Table) else _markdown_figure(item))
            parts.append("\n".join(f"- {_plain(note)}" for note in item.notes))
    if document.problems:
        parts.append("## Not reported, or in part")
        parts.append("\n".join(f"- {_plain(one.path)}: {_plain(one.reason)}" for one in document.problems))
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: Table) -> str:
    heads = ["method" if axis == "label" else axis for axis in table.row_axes]
    aligned = ["---"] * len(heads) + ["---:"] * len(table.columns)
    rows = ([*map(_plain, row.heads), *map(_markdown_cell, row.cells)] for row in table.rows)
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
    return [figure.x.quantity.text(point.x), figure.y.quantity.with_half(point.y.mean, point.y.half)]


def _pipes(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _markdown_cell(cell: Cell) -> str:
    texts = [f"**{_plain(line.text)}**" if _is_bold(cell, line) else _plain(line.text) for line in cell.lines]
    return "<br>".join(texts) or NOTHING


def _plain(text: str) -> str:
    """Text that Markdown does not read as anything else."""
    plain = one_line(" ".join(text.split()))
    escaped = "".join(f"\\{char}" if char in "\\`*_[]|#~" else char for char in plain)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex(document: Document) -> str:
    """Each table as a `table` with booktabs' rules; notes stand under it. Figures are files: see --figures."""
    parts = [r"% \usepackage{booktabs}"]
    for item in document.items:
        if isinstance(item, Table):
            parts.append(_latex_table(item))
    return "\n\n".join(parts) + "\n"


def _latex_table(table: Table) -> str:
    heads = ["Method" if axis == "label" else axis for axis in table.row_axes]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{_tex(table.title)}}}",
        rf"  \begin{{tabular}}{{{'l' * len(heads)}{'r' * len(table.columns)}}}",
        r"    \toprule",
        rf"    {' & '.join(map(_tex, [*heads, *table.headings]))} \\",
        r"    \midrule",
        *(rf"    {' & '.join([*map(_tex, row.heads), *map(_latex_cell, row.cells)])} \\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\footnotesize {_tex(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _latex_cell(cell: Cell) -> str:
    texts = [rf"\textbf{{{_tex(line.text)}}}" if _is_bold(cell, line) else _tex(line.text) for line in cell.lines]
    if len(texts) < 2:
        return texts[0] if texts else "--"
    first, *others = texts
    stacked = r" \\ ".join([first, *(rf"\footnotesize {text}" for text in others)])
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{stacked}\end{{tabular}}"


def _tex(text: str) -> str:
    """Text with the letters of this field that LaTeX lacks as mathematics: W̃⊥, ±, 10⁻⁴."""
    out: list[str] = []
    for char in one_line(" ".join(text.split())):
        if char == _TILDE and out:
            out[-1] = rf"\ensuremath{{\tilde{{{out[-1]}}}}}"
        else:
            out.append(_LATEX.get(char, char))
    return "".join(out)


def _is_bold(cell: Cell, line: Line) -> bool:
    return cell.best and line.role == "value"
