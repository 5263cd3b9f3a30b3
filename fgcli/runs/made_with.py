"""What a run's numbers were made with, beside its recipe: versions, code, data. Imports no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

CODE, DATA = "code", "data"
VERSIONS = ("fg", "git_commit", "python", "torch", "numpy", "scipy", "cuda")
"""Of which the last bits of a run depend, and more where what they do has changed."""


def made_with(environment: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, str]:
    """By name: versions of libraries, plugins and fg, sums of the user's code and of the data; as far as known.

    Where a run went on with others, both are named.
    """
    found = {name: str(environment[name]) for name in VERSIONS if environment.get(name)}
    plugins = environment.get("plugins")
    for section, origin in plugins.items() if isinstance(plugins, Mapping) else ():
        if not str(origin).startswith("fgcli "):
            found[f"{section} {recipe.get(section)}"] = str(origin)
    code = environment.get(CODE)
    for module, one in code.items() if isinstance(code, Mapping) else ():
        if isinstance(one, Mapping):
            found[f"module {module}"] = str(one.get("sha256"))
    if data := environment.get(DATA):
        options = recipe.get("dataset_options") or {}
        said = ", ".join(f"{key} {value}" for key, value in options.items())
        found[f"dataset {recipe.get('dataset')}{f' ({said})' if said else ''}"] = str(data)
    moves = environment.get("went_on")
    for move in moves if isinstance(moves, list) else ():
        for name, value in move.items() if isinstance(move, Mapping) else ():
            if name in found and str(value) not in found[name]:
                found[name] += f", then {value}"
    return found


def unlike(runs: Sequence[tuple[str, Mapping[str, str]]]) -> dict[str, dict[str, list[str]]]:
    """What runs were not made alike with: by name, who has which value. A run is (who, `made_with`)."""
    values: dict[str, dict[str, list[str]]] = {}
    for who, made in runs:
        for name, value in made.items():
            values.setdefault(name, {}).setdefault(value, []).append(who)
    return {name: by_value for name, by_value in values.items() if len(by_value) > 1}


def is_version(name: str) -> bool:
    """Whether it is of a library, fg or Python, and not the user's code or data."""
    return name in VERSIONS
