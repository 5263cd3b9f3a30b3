"""Plugins that a run was begun with and that are not in use: said where something of theirs is missing. No torch."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from fgcli.errors import PluginMissing, UsageError
from fgcli.extend.factory import is_reference
from fgcli.extend.own_code import checksum
from fgcli.extend.registry import Registry
from fgcli.runs.environment import Environment
from fgcli.runs.run_directory import RunDirectory


@contextmanager
def naming_missing_plugins(
    runs: Iterable[tuple[RunDirectory, Mapping[str, object]]], registry: Registry
) -> Iterator[None]:
    """Within it, a UsageError says also which plugins a run was begun with that are not in use: the first such run.

    A PluginMissing where these are files. `runs`: each with its recipe, as its file has it.
    """
    try:
        yield
    except PluginMissing:
        raise
    except UsageError as error:
        for run, recipe in runs:
            if fuller := _with_missing_plugins(error, run, recipe, registry):
                raise fuller from error
        raise


def _with_missing_plugins(
    error: UsageError, run: RunDirectory, recipe: Mapping[str, object], registry: Registry
) -> UsageError | None:
    begun = run.recorded_environment()
    given = {path.stem for path in registry.files}
    if files := [one for name, one in begun.plugin_files.items() if name not in given]:
        listed = " and ".join(f"{one.get('file')}{_since(one)}" for one in files)
        said = f"{error}; {run.path} was begun with the plugin {listed}, which is not in use: give it once more"
        return PluginMissing(said, [str(one.get("file")) for one in files], _folders(begun))
    origins = {origin for name, origin in begun.plugins.items() if not is_reference(str(recipe.get(name)))}
    absent = origins - set(map(str, registry.origins))
    if missing := sorted(origin for origin in absent if origin.partition(" ")[0] not in given):
        return UsageError(f"{error}; the run was begun with {', '.join(missing)}, which is not in use")
    return None


def _folders(begun: Environment) -> list[str]:
    """Where the run's other modules of the user's own were, of those that are not found from here."""
    found: dict[str, None] = {}
    for name, one in begun.latest_code.items():
        file, top = Path(str(one.get("file"))), name.partition(".")[0]
        depth = name.count(".") + (file.name == "__init__.py")
        folder = Path(*file.parts[: -1 - depth])
        own = top.isidentifier() and name not in begun.plugin_files
        if own and folder != Path.cwd() and find_spec(top) is None:
            found[str(folder)] = None
    return list(found)


def _since(recorded: Mapping[str, object]) -> str:
    """What has become of a file since."""
    now = checksum(str(recorded.get("file")))
    if now is None:
        return " (which is not there any more)"
    return "" if now == recorded.get("sha256") else " (which has changed since)"
