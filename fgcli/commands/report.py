"""`fgcli report`: tables and figures of runs and sweeps, from their directories alone. Heavy imports inside."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgcli.errors import UsageError

if TYPE_CHECKING:
    from fgcli.report.document import Document


def _format(name: str, what: str) -> bool:
    return typer.Option(f"--{name}", help=f"Print {what}, and nothing else, to standard output.")


def report(
    paths: Annotated[
        list[Path], typer.Argument(help="Run directories, sweep directories, or folders of them.", metavar="PATH...")
    ],
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", help="Compare with this label; by default with the sweep's own.", metavar="LABEL"),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="Write one page with everything in it, which opens offline.", metavar="FILE"),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Draw each figure as PNG, SVG and PDF.", metavar="DIR")
    ] = None,
    markdown: Annotated[bool, _format("markdown", "Markdown")] = False,
    latex: Annotated[bool, _format("latex", "the tables as LaTeX")] = False,
    csv: Annotated[bool, _format("csv", "a line of CSV for each number")] = False,
    json: Annotated[bool, _format("json", "all numbers as JSON")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show what changes until all is done, or Ctrl-C.")] = False,
) -> None:
    """Tables and figures of runs and sweeps.

    Mean ± 95 % t-interval over seeds; paired differences to a baseline; published numbers, where a sweep has them.
    """
    asked = {"--markdown": markdown, "--latex": latex, "--csv": csv, "--json": json}
    formats = [flag for flag, given in asked.items() if given]
    if len(formats) > 1:
        raise UsageError(f"{' and '.join(formats)} are given; standard output takes one of them")
    if watch and (formats or html or figures):
        raise UsageError("--watch shows the report in the terminal; leave out the other formats")
    from fgcli.report.compose import compose
    from fgcli.report.figure_file import check_page

    if html is not None:
        check_page(html)
    if figures is not None and figures.exists() and not figures.is_dir():
        raise UsageError(f"--figures is {figures}, a file; name a folder")

    if watch:
        from fgcli.commands.report_watch import keep_watching

        keep_watching(lambda: compose(paths, baseline))
        return
    document = compose(paths, baseline)
    said = write(document, html, figures)
    if formats:
        from fgcli.report.data import as_csv, as_json
        from fgcli.report.latex import latex as as_latex
        from fgcli.report.markdown import markdown as as_markdown

        printers = {"--markdown": as_markdown, "--latex": as_latex, "--csv": as_csv, "--json": as_json}
        sys.stdout.write(printers[formats[0]](document))
    else:
        from fgcli.report.terminal import show

        show(document)
    for line in said:
        print(line, file=sys.stderr if formats else sys.stdout)


def write(document: "Document", html: Path | None, figures: Path | None) -> list[str]:
    """Write the files that were asked for; what to say of them."""
    said: list[str] = []
    if html is not None:
        from fgcli.files import write_atomically
        from fgcli.report.page import as_html

        write_atomically(html, as_html(document))
        said.append(f"page written to {html}")
    if figures is not None:
        from fgcli.report.plots import draw_all

        count = draw_all(document, figures)
        said.append(f"{count} {'figure' if count == 1 else 'figures'} written to {figures}")
    return said
