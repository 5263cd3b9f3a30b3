"""`fgcli new-plugin`: a package that installs and passes its own tests at once, to be changed from there. No torch."""

import keyword
import os
import re
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from fgcli.errors import UsageError
from fgcli.extend.explain import shown
from fgcli.extend.registry import HOOKS
from fgcli.files import make_folder

LONGEST = 100  # characters of a name, which file systems take as that of a folder
TEMPLATES = Path(__file__).parents[1] / "templates"


class Kind(StrEnum):
    """What a new plugin adds; also the names of the folders of templates."""

    GUESS_METHOD = "guess-method"
    ESTIMATOR = "estimator"
    FEEDBACK_RULE = "feedback-rule"
    DATASET = "dataset"
    MODEL = "model"
    LOSS = "loss"
    OPTIMIZER = "optimizer"
    LR_SCHEDULE = "lr-schedule"
    EXECUTOR = "executor"
    METRIC_SINK = "metric-sink"
    SUBCOMMAND = "subcommand"


_USE = {
    Kind.GUESS_METHOD: "fgcli train --method {}",
    Kind.ESTIMATOR: "fgcli train --method {}",
    Kind.FEEDBACK_RULE: "fgcli train --feedback {}",
    Kind.EXECUTOR: "fgcli bench RECIPE --executor {}",
    Kind.METRIC_SINK: "fgcli train --sink {}",
    Kind.SUBCOMMAND: "fgcli {} --help",
}
"""How what is added is used; of the other kinds by `fgcli train --KIND`."""
_FUNCTIONS = (Kind.DATASET, Kind.MODEL, Kind.LOSS, Kind.OPTIMIZER, Kind.LR_SCHEDULE, Kind.SUBCOMMAND)
"""Those whose target is a function; that of the others is a class."""


def new_plugin(
    name: Annotated[str, typer.Argument(help="Of the distribution, and of the folder: fg-plugin-mine.")],
    kind: Annotated[Kind, typer.Option("--kind", help="What the plugin adds.")] = Kind.GUESS_METHOD,
) -> None:
    """Write the package of a new plugin into a new folder: it installs and passes its own tests at once."""
    folder = write_plugin(Path.cwd(), name, kind)
    print(f"wrote {folder}; now: pip install -e {folder} && python -m pytest {folder}")


def write_plugin(parent: Path, name: str, kind: Kind) -> Path:
    """Write the package into `parent`/`name`, and return that as a path from here. UsageError, nothing written, for a
    name that is none or taken."""
    names = _names(name, kind)
    folder = parent / name
    if os.path.lexists(folder):
        raise UsageError(f"{folder} exists; give another name, or remove it")
    module = names["module"]
    if find_spec(module) is not None:
        raise UsageError(f"NAME is {name!r}; there is a module {module} already: give another name")
    files = {folder / path: Template(text).substitute(names) for path, text in _templates(kind, module).items()}
    for path, text in files.items():
        make_folder(path.parent, "the folder")
        path.write_text(text, encoding="utf-8")
    return Path(name)


def _names(name: str, kind: Kind) -> dict[str, str]:
    """What stands in the templates: the distribution, its module, and what it adds, as a name, class and function."""
    if len(name) > LONGEST or not re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name):
        allowed = f"small letters, digits and single hyphens, at most {LONGEST} of them: fg-plugin-mine"
        raise UsageError(f"NAME is {shown(name)}; it must be {allowed}")
    entry = re.sub(r"^fg[-_](plugin[-_])?(?=.)", "", name)
    words = re.split(r"[-_]", entry)
    function = "_".join(words)
    if not function.isidentifier() or keyword.iskeyword(function):
        raise UsageError(f"NAME is {name!r}; {function!r} is no name for a function in Python: give another one")
    class_name = "".join(word.capitalize() for word in words)
    registered, hook = next((one, hook) for one, hook in HOOKS.items() if re.sub("[ _]", "-", one) == kind)
    return {
        "name": name,
        "module": name.replace("-", "_"),
        "kind": kind.value.replace("-", " "),
        "entry": entry,
        "Class": class_name,
        "function": function,
        "target": function if kind in _FUNCTIONS else class_name,
        "registered": registered,
        "hook": hook,
        "use": _USE.get(kind, f"fgcli train --{kind} {{}}").format(entry),
    }


def _templates(kind: Kind, module: str) -> dict[str, str]:
    """The text of each template, by the path that it is written to. Tests end with those that all kinds have."""
    places = {"init.py": f"{module}/__init__.py", "test.py": f"tests/test_{module}.py"}
    found: dict[str, str] = {}
    for file in sorted([*(TEMPLATES / "common").iterdir(), *(TEMPLATES / kind.value).iterdir()]):
        target = file.name.removesuffix(".tmpl")
        place = places.get(target, f"{module}/{target}" if target.endswith(".py") else target)
        found[place] = file.read_text(encoding="utf-8") + found.get(place, "")
    return found
