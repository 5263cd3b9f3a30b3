"""Tables for notebooks. Imports no torch."""

from collections.abc import Iterable
from html import escape


def html_table(rows: Iterable[tuple[str, str]]) -> str:
    """A table of titles and what stands beside them, as lines of text."""
    shown = ((escape(title), "<br>".join(map(escape, text.splitlines()))) for title, text in rows)
    cells = (f"<tr><th>{title}</th><td>{lines}</td></tr>" for title, lines in shown)
    return f"<table>{''.join(cells)}</table>"
