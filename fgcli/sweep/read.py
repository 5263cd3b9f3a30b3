"""Reads a sweep's file, and refuses it whole, with file:line:column, before anything is run. Imports no torch."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from pydantic import ValidationError

from fgcli.errors import UsageError, unknown
from fgcli.extend.explain import first_fault, shown
from fgcli.extend.registry import Registry
from fgcli.recipe import Source, dotted, read_recipe, resolve
from fgcli.recipe_keys import Recipe
from fgcli.runs.quantities import VALUE_KEYS
from fgcli.shell import command_line
from fgcli.sweep.plan import MAX_TRIALS, PlannedTrial, plan, plan_tuning, size
from fgcli.sweep.schema import METHODS, SEED, Sweep, Tune
from fgcli.sweep.view_checks import check_views
from fgcli.sweep.views import KINDS, LABEL, Scalar, as_key
from fgcli.yaml_reader import Path


def is_sweep(source: Source) -> bool:
    """Whether a recipe is of many runs."""
    return "grid" in source.data


def read_sweep(path: str | os.PathLike[str]) -> tuple[Sweep, Source]:
    """A sweep's file: its content, checked without the registry, and the places in it. UsageError for every fault."""
    source = read_recipe(path)
    return parse_sweep(source), source


def parse_sweep(source: Source) -> Sweep:
    """The sweep that a file says. UsageError "file:line:column: ..." for every fault of its own keys."""
    if not is_sweep(source):
        raise UsageError(
            f"{source.name}:1:1: this is the recipe of one run, as it has no grid; run it with: "
            f"{command_line('train', '--recipe', source.name)}"
        )
    data = {key: value for key, value in source.data.items() if value is not None}
    # Here and not by the schema, which knows no nearest spelling.
    _refuse_unknown_keys(source, "a sweep", data, (), Sweep.model_fields)
    _refuse_unknown_keys(source, "base", data.get("base"), ("base",), Recipe.model_fields)
    _refuse_unknown_keys(source, "tune", data.get("tune"), ("tune",), Tune.model_fields)
    _check_axes(source)
    _check_keys_of_views(source)
    try:
        sweep = Sweep.model_validate(data)
    except ValidationError as error:
        _refuse(source, error, data)
    _refuse_said_twice(source, sweep)
    _check_methods(source, sweep)
    if size(sweep.grid) > MAX_TRIALS:
        place = source.place(("grid",), key=True)
        raise UsageError(f"{place}: the grid has {size(sweep.grid)} trials, above {MAX_TRIALS}")
    check_views(source, sweep)
    return sweep


def resolve_trials(sweep: Sweep, source: Source, registry: Registry) -> dict[str, Recipe]:
    """The recipe of every trial, by its name, checked as `fgcli train` would; where the learning rate is still to be
    searched for, with the first candidate. UsageError, with the place in the sweep, for the first that is refused.
    """
    _resolve_all(plan_tuning(sweep), source, registry, {})
    return _resolve_all(plan(sweep), source, registry, sweep.first_lr)


def _resolve_all(
    trials: Sequence[PlannedTrial], source: Source, registry: Registry, overrides: Mapping[str, object]
) -> dict[str, Recipe]:
    """Of those that differ in the seed alone, the first is looked at."""
    resolved: dict[str, Recipe] = {}
    firsts: dict[tuple[str, ...], Recipe] = {}
    for trial in trials:
        alike = (trial.label, *(as_key(value) for key, value in trial.axes.items() if key != SEED))
        if alike not in firsts:
            firsts[alike] = resolve_trial(trial, source, registry, overrides)
        resolved[trial.name] = firsts[alike].model_copy(update={SEED: trial.axes[SEED]})
    return resolved


def resolve_trial(
    trial: PlannedTrial, source: Source, registry: Registry, overrides: Mapping[str, object] | None = None
) -> Recipe:
    """The recipe of one trial. UsageError with the place in the sweep's file."""
    return resolve(_as_recipe(trial, source), overrides or {}, registry)


def _as_recipe(trial: PlannedTrial, source: Source) -> Source:
    """The trial as the recipe of one run, every part of it at its place in the sweep's file."""

    def moved(positions: Mapping[Path, Any], below: Mapping[Path, Sequence[Path]], *, keys: bool) -> dict[Path, Any]:
        found: dict[Path, Any] = {}
        for path, origin in trial.places.items():
            for place in below.get(origin, ()):
                found[(*path, *place[len(origin) :])] = positions[place]
            # The key of an axis stands before its list; a plain name among the methods has none.
            if path not in found and (keys or path == ("method",)):
                found[path] = positions.get(origin[:-1], positions.get(origin[:-2]))
        return {path: position for path, position in found.items() if position is not None}

    values = moved(source.values, source.values_below, keys=False)
    keys = moved(source.keys, source.keys_below, keys=True)
    return Source(source.name, trial.overrides, values, keys)


def _check_axes(source: Source) -> None:
    """Their names, and that each is a list of different values."""
    grid = source.data["grid"]
    for key, values in grid.items() if isinstance(grid, Mapping) else ():
        path = ("grid", key)
        if key == "method":
            place = source.place(path, key=True)
            raise UsageError(f"{place}: the compared methods are a list under `{METHODS}`, not under `method`")
        if key == METHODS:
            continue
        if key not in Recipe.model_fields:
            known = [METHODS, *(key for key in Recipe.model_fields if key != "method")]
            raise unknown("key of grid", key, known, where=source.place(path, key=True))
        if not isinstance(values, list) or not values:
            called = f"{source.place(path)}: {dotted(path)}"
            raise UsageError(f"{called} is {shown(values)}; it must be a list of values")
        for number, value in enumerate(values):
            if not isinstance(value, bool | int | float | str):
                called = f"{source.place((*path, number))}: {dotted((*path, number))}"
                allowed = "it must be text, a number, or true or false; give other options to a method, under `methods`"
                raise UsageError(f"{called} is {shown(value)}; {allowed}")
        _refuse_repeated(source, values, path)


def _refuse_repeated(source: Source, values: Sequence[Scalar], path: Path) -> None:
    seen: set[str] = set()
    for number, value in enumerate(values):
        if as_key(value) in seen:
            place = source.place((*path, number))
            raise UsageError(f"{place}: {shown(value)} is given twice in {dotted(path)}; remove one")
        seen.add(as_key(value))


def _check_methods(source: Source, sweep: Sweep) -> None:
    """Their keys, that each has a label of its own, and a method: the default one would be trained under the label."""
    seen: set[str] = set()
    for number, method in enumerate(sweep.grid.methods):
        path = ("grid", METHODS, number)
        known = [LABEL, *Recipe.model_fields]
        _refuse_unknown_keys(source, f"method {method.label}", method.overrides, path, known)
        place = source.place((*path, LABEL))
        if method.label in seen:
            raise UsageError(f"{place}: label {method.label!r} is given twice; give each method a label of its own")
        seen.add(method.label)
        if "method" not in method.overrides and "method" not in sweep.base:
            said = f"{dotted(path)} has label {shown(method.label)} and no method, and base has none"
            raise UsageError(f"{place}: {said}; give it one: {{label: {method.label}, method: wt}}, say")


def _refuse_said_twice(source: Source, sweep: Sweep) -> None:
    """A value that an axis, or the search of the learning rate, has twice, or that the base or a method sets, too."""
    axes = {key: ("grid", key) for key in (*sweep.grid.axes, SEED)}
    if sweep.tune:
        _refuse_repeated(source, sweep.tune.lr, ("tune", "lr"))
        _refuse_repeated(source, sweep.tune.seed, ("tune", SEED))
        if "lr" in axes:
            place = source.place(("grid", "lr"), key=True)
            raise UsageError(f"{place}: grid.lr and tune.lr say the same; give one of them")
        axes["lr"] = ("tune", "lr")
    of_methods = [(("grid", METHODS, i), method.overrides) for i, method in enumerate(sweep.grid.methods)]
    for path, given in (("base",), sweep.base), *of_methods:
        if twice := [key for key in given if key in axes]:
            whole, other = (*path, twice[0]), axes[twice[0]]
            said = f"{dotted(whole)} and {dotted(other)} say the same; give one of them"
            raise UsageError(f"{source.place(whole, key=True)}: {said}")


def _check_keys_of_views(source: Source) -> None:
    """The kinds of the views, their keys, and the values that they name."""
    views = source.data.get("views")
    for number, view in enumerate(views if isinstance(views, list) else ()):
        path = ("views", number)
        if not isinstance(view, Mapping):
            continue
        kind = view.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            place = source.place((*path, "kind"))
            raise UsageError(f"{place}: {dotted(path)}.kind is {shown(kind)}; it must be {', '.join(sorted(KINDS))}")
        _refuse_unknown_keys(source, f"a {kind}", view, path, KINDS[kind].model_fields)
        for name in ("value", "y"):
            given = view.get(name)
            for index, one in enumerate(given if isinstance(given, list) else [given]):
                place = (*path, name, index) if isinstance(given, list) else (*path, name)
                key = one.get("key") if isinstance(one, Mapping) else one
                if isinstance(key, str) and key not in VALUE_KEYS:
                    raise unknown("value", key, VALUE_KEYS, where=source.place((*place, "key")))


def _refuse_unknown_keys(source: Source, owner: str, data: object, path: Path, known: Iterable[str]) -> None:
    for key in data if isinstance(data, Mapping) else ():
        if key not in known:
            raise unknown(f"key of {owner}", key, known, where=source.place((*path, key), key=True))


def _refuse(source: Source, error: ValidationError, data: Mapping[str, Any]) -> NoReturn:
    path, sentence = first_fault(error, data)
    if error.errors()[0]["type"] == "extra_forbidden":
        place = source.place(path, key=True)
        raise UsageError(f"{place}: unknown key {path[-1]!r} of {dotted(path[:-1])}; remove it") from error
    raise UsageError(f"{source.place(path)}: {dotted(path)} {sentence}") from error
