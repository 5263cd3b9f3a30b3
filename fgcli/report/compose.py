"""From paths to a document. Imports no torch."""

from collections.abc import Iterable
from os import PathLike
from pathlib import Path

from fgcli.errors import unknown, writable
from fgcli.report.chapters import Chapter, make_chapters
from fgcli.report.document import Document, Figure, Section, Table
from fgcli.report.figures import make_curves, make_figure, make_overlaps, make_reach
from fgcli.report.tables import make_tables
from fgcli.report.trials import Problem, gather
from fgcli.sweep.views import AnyView, CurveView, FigureView, ReachView, TableView


def read_report(*paths: str | PathLike[str], baseline: str | None = None) -> Document:
    """The report on runs and sweeps, as `fgcli report` makes it; notebooks show it as a page.

    Args:
        paths: run directories, sweep directories, or folders of them.
        baseline: the label that others are compared with; by default the sweep's own.

    Returns:
        The report: tables and figures as data.

    Raises:
        UsageError: where there is nothing to report, or no such label.
    """
    return compose(map(Path, paths), baseline)


def compose(paths: Iterable[Path], baseline: str | None = None) -> Document:
    """The report on everything under the paths. UsageError where there is nothing, or no label `baseline`."""
    sources, problems = gather(paths)
    chapters, left_out = make_chapters(sources)
    labels = {label for chapter in chapters for label in chapter.labels}
    if baseline is not None and baseline not in labels:
        raise unknown("label", baseline, labels, where="--baseline")
    sections = [_section(chapter, baseline) for chapter in chapters]
    return Document(tuple(sections), tuple(Problem(*map(writable, problem)) for problem in (*problems, *left_out)))


def _section(chapter: Chapter, baseline: str | None) -> Section:
    ours = baseline if baseline in chapter.labels else None
    items = [item for view in chapter.views for item in _items(chapter, view, ours)]
    return Section(chapter.title, chapter.description, tuple(items), chapter.trials, chapter.axes)


def _items(chapter: Chapter, view: AnyView, baseline: str | None) -> list[Table | Figure]:
    if isinstance(view, TableView):
        return [*make_tables(chapter, view, baseline)]
    if isinstance(view, FigureView):
        return [make_figure(chapter, view)]
    if isinstance(view, CurveView):
        return [make_curves(chapter, view)]
    if isinstance(view, ReachView):
        return [make_reach(chapter, view)]
    return [make_overlaps(chapter, view)]
