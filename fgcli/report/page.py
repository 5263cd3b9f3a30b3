"""A document as one HTML file that opens offline: figures as SVG, the recipe and environment of every run within.

Imports no torch.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fgcli import __version__
from fgcli.errors import writable
from fgcli.files import to_json
from fgcli.report import drawing
from fgcli.report.document import Document, Section, Table, axis_name, axis_texts
from fgcli.report.trials import Trial
from fgcli.runs.quantities import RESULTS
from fgcli.runs.record import numbers

TEMPLATES = Path(__file__).parent / "templates"


def as_html(document: Document) -> str:
    """The page. Everything that comes from a run or a recipe is escaped by the template."""
    groups = _Groups(document)
    environments = _environments(document)
    results = [trial.result for trial in document.trials if trial.result is not None]
    measured = {key for result in results for key in numbers(result)}
    machines = sorted({trial.run.machine for trial in document.trials if trial.run is not None})
    env = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    env.trim_blocks = env.lstrip_blocks = True
    env.tests["table"] = lambda item: isinstance(item, Table)
    page = env.get_template("page.html.j2").render(
        title=document.sections[0].title if len(document.sections) == 1 else "Report",
        document=document,
        groups=groups,
        environments=environments,
        environment_of=lambda trial: environments.get(_environment(trial), ("", ""))[0],
        command_of=lambda trial: trial.run.environment.command,
        plot=drawing.lay_out,
        size=drawing,
        axis_name=axis_name,
        quantities=[quantity for key, quantity in RESULTS.items() if key in measured or not measured],
        numbers=numbers,
        summary=[f"{len(results)} of {len(document.trials)} runs finished", *machines],
        version=__version__,
        style=(TEMPLATES / "style.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "script.js").read_text(encoding="utf-8"),
    )
    return writable(page.strip()) + "\n"


class _Groups:
    """The trials behind a number, one label at one place on the axes with every seed: of each section (anchor, title,
    trials), and the anchor of the group that a cell or a point is of."""

    def __init__(self, document: Document) -> None:
        self._anchors: dict[int, str] = {}
        self.by_section: list[tuple[Section, list[tuple[str, str, list[Trial]]]]] = []
        number = 0
        for section in document.sections:
            found: dict[object, list[Trial]] = {}
            for trial in section.trials:
                found.setdefault((trial.label, *(str(trial.axis(axis)) for axis in section.axes)), []).append(trial)
            groups = []
            for trials in found.values():
                number += 1
                axes = axis_texts((axis, trials[0].axis(axis)) for axis in section.axes)
                groups.append((f"g{number}", ", ".join([trials[0].label, *axes]), trials))
                self._anchors |= {id(trial): f"g{number}" for trial in trials}
            self.by_section.append((section, groups))

    def of(self, trials: Sequence[Trial]) -> str:
        return self._anchors[id(trials[0])]


def _environment(trial: Trial) -> str:
    """What a run was made with, as text; the command is the run's own."""
    content = trial.run.environment.without_command if trial.run else {}
    return to_json(content) if content else ""


def _environments(document: Document) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """By their text: a short name, and (key, value) of each."""
    content = {_environment(trial): trial.run.environment.without_command for trial in document.trials if trial.run}
    content.pop("", None)
    return {
        text: (f"E{number}", [(key, _plain(value)) for key, value in environment.items()])
        for number, (text, environment) in enumerate(content.items(), start=1)
    }


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}: {one}" for key, one in value.items())
    return "–" if value is None else str(value)
