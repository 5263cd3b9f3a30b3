"""A document's tables as LaTeX, for papers, with their notes. Imports no torch."""

import unicodedata

from fgcli.errors import one_line
from fgcli.report.document import Cell, Document, Table, axis_name, is_bold

_GREEK = {  # unicodedata.name("α") is GREEK SMALL LETTER ALPHA
    letter: unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
    for letter in "αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
}
_SYMBOLS = {
    "<": "<", ">": ">", "±": r"\pm", "×": r"\times", "·": r"\cdot", "−": "-", "‖": r"\|", "√": r"\surd", "µ": r"\mu",
    "→": r"\to", "←": r"\gets", "≤": r"\leq", "≥": r"\geq", "≠": r"\neq", "≈": r"\approx", "∞": r"\infty",
    "∂": r"\partial", "∇": r"\nabla", "∑": r"\sum", "∈": r"\in", "⊥": r"^\perp", "ᵀ": r"^\top", "ᴾ": r"^{\mathrm P}",
    **{letter: rf"\{name.capitalize() if letter.isupper() else name.lower()}" for letter, name in _GREEK.items()},
}  # fmt: skip
_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "[": "{[}",  # behind \\ or \midrule it would begin an argument, and so would a star
    "*": "{*}",
    "–": "--",
    **{char: rf"\ensuremath{{{formula}}}" for char, formula in _SYMBOLS.items()},
}
_ACCENTS = {"\u0303": r"\tilde", "\u0302": r"\hat", "\u0304": r"\bar", "\u0307": r"\dot", "\u20d7": r"\vec"}
_JOINED = "-,'"  # two of them in a row would be set as one sign
_IN_PDFLATEX = {*map(chr, range(0xA1, 0x180)), *"‘’“”—…"} - set("«»ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲųſ")


def latex(document: Document) -> str:
    """Each table as a `table` with booktabs' rules; notes stand under it. Figures are files: see --figures."""
    tables = [_table(item) for item in document.items if isinstance(item, Table)]
    head = r"% \usepackage{booktabs}"
    if foreign := sorted({char for table in tables for char in table if not char.isascii()} - _IN_PDFLATEX):
        head += f"\n% Compile with LuaLaTeX or XeLaTeX and a font that has them: pdfLaTeX lacks {' '.join(foreign)}"
    return "\n\n".join([head, *tables]) + "\n"


def _table(table: Table) -> str:
    heads = ["Method" if axis == "label" else axis_name(axis) for axis in table.row_axes]
    lines = [
        r"\begin{table}",
        r"  \centering",
        rf"  \caption{{{escaped(table.title)}}}",
        rf"  \begin{{tabular}}{{{'l' * len(heads)}{'r' * len(table.columns)}}}",
        r"    \toprule",
        rf"    {' & '.join(map(escaped, [*heads, *table.headings]))} \\",
        r"    \midrule",
        *(rf"    {' & '.join([*map(escaped, table.heads(row)), *map(_cell, row.cells)])} \\" for row in table.rows),
        r"    \bottomrule",
        r"  \end{tabular}",
        *(rf"  \par\footnotesize {escaped(note)}" for note in table.notes),
        r"\end{table}",
    ]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    texts = [rf"\textbf{{{escaped(line.text)}}}" if is_bold(cell, line) else escaped(line.text) for line in cell.lines]
    if len(texts) < 2:
        return texts[0] if texts else "--"
    first, *others = texts
    stacked = r" \\ ".join([first, *(rf"\footnotesize {text}" for text in others)])
    return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{stacked}\end{{tabular}}"


def escaped(text: str) -> str:
    """Text that LaTeX reads as nothing else, with the letters of this field that it lacks as formulas: W̃⊥, ±, 10⁻⁴."""
    out: list[str] = []
    before = ""
    for char in unicodedata.normalize("NFC", one_line(" ".join(text.split()))):
        if char in _ACCENTS and out:
            out[-1] = rf"\ensuremath{{{_ACCENTS[char]}{{{out[-1]}}}}}"
        elif char in _JOINED and char == before:
            out.append(f"{{}}{char}")
        else:
            out.append(_LATEX.get(char) or _raised(char) or char)
        before = char
    return "".join(out)


def _raised(char: str) -> str | None:
    """A raised letter, digit or sign, by what it is without that."""
    kind, *codes = unicodedata.decomposition(char).split() or [""]
    if kind != "<super>":
        return None
    plain = "".join(chr(int(code, 16)) for code in codes).replace("−", "-")
    return rf"\textsuperscript{{{plain}}}" if plain.isalpha() else rf"\ensuremath{{^{{{plain}}}}}"
