"""The recipes that ship with fg: in recipes/ beside the package in a checkout, inside the package in a wheel."""

from pathlib import Path

from fgcli.errors import UsageError, unknown
from fgcli.files import refuse_impossible
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import SweepDirectory
from fgcli.shell import command_line

_PACKAGE = Path(__file__).parent


def folder() -> Path:
    """Where the shipped recipes lie."""
    installed = _PACKAGE / "_recipes"
    return installed if installed.is_dir() else _PACKAGE.parent / "recipes"


def names() -> list[str]:
    """The names of the shipped recipes, sorted."""
    return sorted(path.stem for path in folder().glob("*.yaml"))


def find(name_or_path: str, where: str = "--recipe") -> Path:
    """The file of a recipe: a path, or the name of a shipped one. UsageError for what is neither.

    `where` is what messages begin with. What looks like a path (it has a separator or a suffix) is one, whether or not
    it exists: reading it tells.
    """
    path = Path(name_or_path)
    refuse_impossible(path, where)
    if name_or_path not in names() and path.is_dir():
        raise UsageError(f"{where} is {path}, a folder; it must be a recipe's file{_way_on(path)}")
    if (path.exists() and not path.is_dir()) or len(path.parts) != 1 or path.suffix:
        return path
    if name_or_path not in names():
        raise unknown("recipe", name_or_path, names(), where=where)
    return folder() / f"{name_or_path}.yaml"


def _way_on(path: Path) -> str:
    """What to do with a folder that holds a recipe."""
    sweep, run = SweepDirectory(path), RunDirectory(path)
    if sweep.sweep_file.exists():
        return f"; its sweep goes on with: {command_line('bench', sweep.sweep_file, '--out', path)}"
    return f": {run.recipe_file}, which its run was begun with" if run.recipe_file.exists() else ""
