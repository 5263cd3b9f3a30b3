"""Reads a sweep's file, and refuses it whole, with file:line:column, before anything is run. Imports no torch."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError

from fgcli.errors import UsageError, unknown
from fgcli.extend.explain import first_fault, shown
from fgcli.extend.options import Options
from fgcli.extend.registry import Registry
from fgcli.recipe import Source, dotted, read_recipe, resolve
from fgcli.recipe_keys import Recipe
from fgcli.runs.quantities import VALUE_KEYS
from fgcli.shell import command_line
from fgcli.sweep.plan import MAX_TRIALS, PlannedTrial, plan, plan_tuning, size
from fgcli.sweep.schema import METHODS, SEED, Grid, Sweep, Tune
from fgcli.sweep.view_checks import check_views
from fgcli.sweep.views import KINDS, LABEL, AnyView, Scalar, as_key
from fgcli.yaml_reader import Path

OptionsT = TypeVar("OptionsT", bound=Options)


def is_sweep(source: Source) -> bool:
    """Whether a recipe is of many runs."""
    return "grid" in source.data


def read_sweep(path: str | os.PathLike[str]) -> tuple[Sweep, Source]:
    """A sweep's file: its content, checked without the registry, and the places in it. UsageError for every fault."""
    source = read_recipe(path)
    return parse_sweep(source), source


def parse_sweep(source: Source) -> Sweep:
    """The sweep that a file says. UsageError "file:line:column: ..." for every fault of its own keys."""
    data = source.data
    if not is_sweep(source):
        raise UsageError(
            f"{source.name}:1:1: this is the recipe of one run, as it has no grid; run it with: "
            f"{command_line('train', '--recipe', source.name)}"
        )
    _refuse_unknown_keys(source, "a sweep", data, (), Sweep)
    parts: dict[str, Any] = {key: value for key, value in data.items() if key not in ("grid", "tune", "views")}
    _refuse_unknown_keys(source, "base", data.get("base", {}), ("base",), Recipe)
    parts["grid"] = _grid(source)
    if data.get("tune") is not None:
        tune = parts["tune"] = _part(source, "tune", data["tune"], ("tune",), Tune)
        _refuse_repeated(source, tune.lr, ("tune", "lr"))
        _refuse_repeated(source, tune.seed, ("tune", SEED))
    parts["views"] = _views(source)
    sweep = _validated(source, parts, (), Sweep)
    _refuse_said_twice(source, sweep)
    _refuse_no_method(source, sweep)
    check_views(source, sweep)
    return sweep


def resolve_trials(sweep: Sweep, source: Source, registry: Registry) -> dict[str, Recipe]:
    """The recipe of every trial, by its name, checked as `fgcli train` would; where the learning rate is still to be
    searched for, with the first candidate. UsageError, with the place in the sweep, for the first that is refused.
    """
    _resolve_all(plan_tuning(sweep), source, registry, {})
    first_lr = {} if sweep.tune is None else {"lr": sweep.tune.lr[0]}
    return _resolve_all(plan(sweep), source, registry, first_lr)


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


def _grid(source: Source) -> Grid:
    data = _mapping(source, "grid", source.data["grid"], ("grid",))
    for key in data:
        if key == "method":
            place = source.place(("grid", key), key=True)
            raise UsageError(f"{place}: the compared methods are a list under `{METHODS}`, not under `method`")
        if key != METHODS and key not in Recipe.model_fields:
            known = [METHODS, *(key for key in Recipe.model_fields if key != "method")]
            raise unknown("key of grid", key, known, where=source.place(("grid", key), key=True))
        if key != METHODS:
            _check_axis(source, key, data[key])
    grid = _validated(source, data, ("grid",), Grid)
    seen: set[str] = set()
    for number, method in enumerate(grid.methods):
        path = ("grid", METHODS, number)
        for key in method.overrides:
            if key not in Recipe.model_fields:
                raise unknown(
                    f"key of method {method.label}",
                    key,
                    [LABEL, *Recipe.model_fields],
                    where=source.place((*path, key), key=True),
                )
        if method.label in seen:
            place = source.place((*path, LABEL))
            raise UsageError(f"{place}: label {method.label!r} is given twice; give each method a label of its own")
        seen.add(method.label)
    if size(grid) > MAX_TRIALS:
        raise UsageError(f"{source.place(('grid',), key=True)}: the grid has {size(grid)} trials, above {MAX_TRIALS}")
    return grid


def _check_axis(source: Source, key: str, values: object) -> None:
    path = ("grid", key)
    called = f"{source.place(path)}: {dotted(path)}"
    if not isinstance(values, list) or not values:
        raise UsageError(f"{called} is {shown(values)}; it must be a list of values")
    for number, value in enumerate(values):
        if not isinstance(value, bool | int | float | str):
            place = source.place((*path, number))
            allowed = "it must be text, a number, or true or false; give other options to a method, under `methods`"
            raise UsageError(f"{place}: {dotted((*path, number))} is {shown(value)}; {allowed}")
    _refuse_repeated(source, values, path)


def _refuse_repeated(source: Source, values: Sequence[Scalar], path: Path) -> None:
    seen: set[str] = set()
    for number, value in enumerate(values):
        if as_key(value) in seen:
            place = source.place((*path, number))
            raise UsageError(f"{place}: {shown(value)} is given twice in {dotted(path)}; remove one")
        seen.add(as_key(value))


def _refuse_said_twice(source: Source, sweep: Sweep) -> None:
    """An axis that the base or a method sets, too, or the learning rate that is searched for."""
    axes = {
        **{key: ("grid", key) for key in (*sweep.grid.axes, SEED)},
        **({"lr": ("tune", "lr")} if sweep.tune else {}),
    }
    if sweep.tune and "lr" in sweep.grid.axes:
        raise UsageError(
            f"{source.place(('grid', 'lr'), key=True)}: grid.lr and tune.lr say the same; give one of them"
        )
    of_methods = [(("grid", METHODS, i), method.overrides) for i, method in enumerate(sweep.grid.methods)]
    for path, given in (("base",), sweep.base), *of_methods:
        for key in given:
            if key in axes:
                place = source.place((*path, key), key=True)
                raise UsageError(
                    f"{place}: {dotted((*path, key))} and {dotted(axes[key])} say the same; give one of them"
                )


def _refuse_no_method(source: Source, sweep: Sweep) -> None:
    """The default of a run's recipe would be trained under the label."""
    for number, method in enumerate(sweep.grid.methods):
        if "method" not in method.overrides and "method" not in sweep.base:
            path = ("grid", METHODS, number)
            place = source.place((*path, LABEL))
            said = f"{dotted(path)} has label {shown(method.label)} and no method, and base has none"
            raise UsageError(f"{place}: {said}; give it one: {{label: {method.label}, method: wt}}, say")


def _views(source: Source) -> list[AnyView]:
    views = source.data.get("views") or []
    if not isinstance(views, list):
        raise UsageError(f"{source.place(('views',))}: views is {shown(views)}; it must be a list")
    found: list[AnyView] = []
    for number, view in enumerate(views):
        path = ("views", number)
        data = _mapping(source, dotted(path), view, path)
        kind = data.get("kind")
        if not isinstance(kind, str) or kind not in KINDS:
            place = source.place((*path, "kind"))
            raise UsageError(f"{place}: {dotted(path)}.kind is {shown(kind)}; it must be {', '.join(sorted(KINDS))}")
        _check_value_keys(source, data, path)
        found.append(_part(source, f"a {kind}", data, path, KINDS[kind]))
    return found


def _check_value_keys(source: Source, data: Mapping[str, Any], path: Path) -> None:
    """Here and not by the schema, which knows no nearest spelling."""
    for name in ("value", "y"):
        given = data.get(name)
        listed = [(index, one) for index, one in enumerate(given)] if isinstance(given, list) else [(None, given)]
        for index, one in listed:
            place = (*path, name) if index is None else (*path, name, index)
            key = one.get("key") if isinstance(one, Mapping) else one
            if isinstance(key, str) and key not in VALUE_KEYS:
                raise unknown("value", key, VALUE_KEYS, where=source.place((*place, "key")))


def _part(source: Source, owner: str, data: object, path: Path, schema: type[OptionsT]) -> OptionsT:
    mapping = _mapping(source, owner, data, path)
    _refuse_unknown_keys(source, owner, mapping, path, schema)
    return _validated(source, mapping, path, schema)


def _mapping(source: Source, owner: str, data: object, path: Path) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise UsageError(f"{source.place(path)}: {owner} is {shown(data)}; it must be a mapping of names to values")
    return data


def _refuse_unknown_keys(source: Source, owner: str, data: object, path: Path, schema: type[Options]) -> None:
    for key in _mapping(source, owner, data, path):
        if key not in schema.model_fields:
            raise unknown(f"key of {owner}", key, schema.model_fields, where=source.place((*path, key), key=True))


def _validated(source: Source, data: Mapping[str, Any], path: Path, schema: type[OptionsT]) -> OptionsT:
    try:
        return schema.model_validate(dict(data))
    except ValidationError as error:
        _refuse(source, error, data, path)


def _refuse(source: Source, error: ValidationError, data: Mapping[str, Any], path: Path) -> NoReturn:
    within, sentence = first_fault(error, data)
    whole = (*path, *within)
    if error.errors()[0]["type"] == "extra_forbidden":
        place = source.place(whole, key=True)
        raise UsageError(f"{place}: unknown key {whole[-1]!r} of {dotted(whole[:-1])}; remove it") from error
    raise UsageError(f"{source.place(whole)}: {dotted(whole)} {sentence}") from error
