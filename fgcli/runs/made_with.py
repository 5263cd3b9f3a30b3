"""What a run's numbers were made with, beside its recipe: versions, code, data. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

from fgcli.runs.environment import Environment

_THEN = ", then "


def made_with(environment: Environment, recipe: Mapping[str, Any]) -> dict[str, str]:
    """By name: versions of libraries, plugins and fg, sums of the user's code and of the data; as far as known.

    Where a run went on with others, both are named.
    """
    found = environment.versions
    for section, origin in environment.plugins.items():
        if not origin.startswith("fgcli "):
            found[f"{section} {recipe.get(section)}"] = origin
    for module, one in environment.code.items():
        if isinstance(one, Mapping):
            found[f"module {module}"] = str(one.get("sha256"))
    if data := environment.data:
        options = recipe.get("dataset_options") or {}
        said = ", ".join(f"{key} {value}" for key, value in options.items())
        found[f"dataset {recipe.get('dataset')}{f' ({said})' if said else ''}"] = data
    if environment.weights:
        found[f"weights {recipe.get('init_from')}"] = environment.weights
    for move in environment.moves:
        for name, value in move.items() if isinstance(move, Mapping) else ():
            if name in found and str(value) != found[name].rpartition(_THEN)[2]:
                found[name] += f"{_THEN}{value}"
    return found


def latest(made: Mapping[str, str]) -> dict[str, str]:
    """Of a `made_with`, what the run last went on with."""
    return {name: value.rpartition(_THEN)[2] for name, value in made.items()}


def unlike(runs: Sequence[tuple[str, Mapping[str, str]]]) -> dict[str, dict[str, list[str]]]:
    """What runs were not made alike with: by name, who has which value. A run is (who, `made_with`)."""
    values: dict[str, dict[str, list[str]]] = {}
    for who, made in runs:
        for name, value in made.items():
            values.setdefault(name, {}).setdefault(value, []).append(who)
    return {name: by_value for name, by_value in values.items() if len(by_value) > 1}
