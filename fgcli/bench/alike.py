"""Holds a sweep's runs to be made alike: with the same code of the user's, data, and options of methods. No torch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fgcli import __version__
from fgcli.bench.run import Failure, Job, Watcher
from fgcli.errors import FgError, RunError, UsageError
from fgcli.extend.extras import version_of
from fgcli.extend.own_code import changed_files
from fgcli.extend.registry import Registry
from fgcli.recipe import read_recipe
from fgcli.recipe_keys import PARTS, Recipe, Section
from fgcli.runs.environment import VERSIONS
from fgcli.runs.made_with import made_with, unlike
from fgcli.runs.run_directory import RunDirectory


def refuse_other_code(begun: Sequence[Path], recipes: Sequence[Recipe], registry: Registry, out: Path) -> list[str]:
    """UsageError where runs of the sweep, in `begun`, were made with other code than there is now.

    Returns what to warn of: versions that differ.
    """
    now = _now(recipes, registry)
    warnings: dict[str, None] = {}
    for folder in begun:
        environment, recipe = RunDirectory(folder).recorded_environment(), recipe_at(folder)
        if files := changed_files(environment.code):
            raise UsageError(_refusal(out, f"{files[0]} has changed since {folder.name} was run"))
        for name, values in unlike([("then", made_with(environment, recipe)), ("now", now)]).items():
            old, new = values
            if name not in VERSIONS:
                raise UsageError(_refusal(out, f"{name} was {old} when {folder.name} was run, and is {new}"))
            warnings[f"{name} was {old} in earlier trials, and is {new}: numbers may differ by that"] = None
    return list(warnings)


class Alike(Watcher):
    """Passes on what happens, and ends the bench when a finished trial was made otherwise than one before it."""

    def __init__(self, watcher: Watcher, begun: Sequence[tuple[str, Path]], group_of: Callable[[str], object]) -> None:
        self._watcher, self._group_of = watcher, group_of
        self._made: dict[tuple[object, tuple[tuple[str, str], ...]], str] = {}
        """By group and what it was made with, the first trial of that kind: one of thousands is compared with few."""
        for name, folder in begun:
            self._made.setdefault((group_of(name), tuple(_made(folder).items())), name)

    def started(self, job: Job, attempt: int) -> None:
        self._watcher.started(job, attempt)

    def finished(self, job: Job) -> None:
        self._watcher.finished(job)
        made = _made(job.run.path)
        group = self._group_of(job.name)
        for (other, earlier), name in self._made.items():
            same = other == group
            for what, values in unlike([("", dict(earlier)), ("", made)]).items():
                if what not in VERSIONS and (same or not what.startswith("option ")):
                    old, new = (value if len(value) <= 60 else f"{value[:60]}…" for value in values)
                    said = f"{what} was {old} in trial {name} and {new} in {job.name}"
                    raise RunError(
                        f"stopped: {said}; remove the runs of one of them, or begin the sweep in a new folder"
                    )
        self._made.setdefault((group, tuple(made.items())), job.name)

    def failed(self, failure: Failure, *, again: bool) -> None:
        self._watcher.failed(failure, again=again)


def as_begun(recipe: Recipe, siblings: Iterable[Path]) -> Recipe:
    """The recipe with what its method's open options came to in a run of the same label that was begun before."""
    for folder in siblings:
        options = recipe_at(folder).get("options")
        if isinstance(options, Mapping) and folder.exists():
            settled = {key: options[key] for key, value in recipe.options.items() if value is None and key in options}
            return recipe.model_copy(update={"options": recipe.options | settled})
    return recipe


def _now(recipes: Sequence[Recipe], registry: Registry) -> dict[str, str]:
    """What runs of the recipes would be made with, as far as it is known before they are run."""
    named: set[tuple[Section, str]] = {(one, getattr(recipe, one)) for recipe in recipes for one in PARTS}
    plugins = {f"{section} {name}": str(registry.find(section, name).origin) for section, name in sorted(named)}
    found = {name: origin for name, origin in plugins.items() if not origin.startswith("fgcli ")}
    installed = {package: known for package in VERSIONS if (known := version_of(package))}
    return {**installed, **found, "fg": __version__}


def _made(folder: Path) -> dict[str, str]:
    recipe = recipe_at(folder)
    options = recipe.get("options")
    own = {f"option {key}": str(value) for key, value in options.items()} if isinstance(options, Mapping) else {}
    return made_with(RunDirectory(folder).recorded_environment(), recipe) | own


def recipe_at(folder: Path) -> Mapping[str, Any]:
    """What the recipe of a run's folder has; nothing where it cannot be read."""
    try:
        return read_recipe(RunDirectory(folder).recipe_file).data
    except FgError:
        return {}


def _refusal(out: Path, what: str) -> str:
    return f"--out {out}: {what}; its trials and new ones must not be averaged: undo that, or give another folder"
