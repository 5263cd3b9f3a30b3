"""The recipe of a run: what a file and the flags say, checked against the schemas of what they name. Imports no torch.

The order of precedence is flag, file, default.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

import yaml
from pydantic import ValidationError

from fgcli.errors import UsageError, unknown
from fgcli.extend.entry import Entry
from fgcli.extend.explain import Path, first_fault, shown
from fgcli.extend.options import Options
from fgcli.extend.registry import Registry
from fgcli.recipe_keys import PARTS, Part, Recipe, Section
from fgcli.shell import command_line
from fgcli.yaml_reader import Position, read_text, read_yaml, scalar


@dataclass(frozen=True)
class Source:
    """A recipe file as read: plain data and the place of each value and key in it."""

    name: str
    data: Mapping[str, object]
    values: Mapping[Path, Position] = field(default_factory=dict)
    keys: Mapping[Path, Position] = field(default_factory=dict)

    @cached_property
    def values_below(self) -> Mapping[Path, Sequence[Path]]:
        """The paths of values by each path that they begin with."""
        return _by_beginning(self.values)

    @cached_property
    def keys_below(self) -> Mapping[Path, Sequence[Path]]:
        """The paths of keys by each path that they begin with."""
        return _by_beginning(self.keys)

    def place(self, path: Path, *, key: bool = False) -> str:
        """file:line:column of the value at `path`, or of its key. What stands nowhere, as it is missing, is where its
        mapping stands."""
        positions = self.keys if key else self.values
        while path and path not in positions:
            path = path[:-1]
        return f"{self.name}:{positions[path].line}:{positions[path].column}" if path else self.name


def _by_beginning(paths: Iterable[Path]) -> dict[Path, list[Path]]:
    found: dict[Path, list[Path]] = {}
    for path in paths:
        for length in range(len(path) + 1):
            found.setdefault(path[:length], []).append(path)
    return found


class _Given(NamedTuple):
    """A value that somebody gave, and the place that messages about it begin with."""

    value: object
    path: Path
    source: Source | None  # None: a flag

    def place(self, rest: Path = (), *, key: bool = False) -> str:
        """file:line:column, or the flag."""
        path = (*self.path, *rest)
        return flag(path) if self.source is None else self.source.place(path, key=key)

    def called(self, rest: Path = ()) -> str:
        """The beginning of a sentence about the value: "recipe.yaml:3:9: epochs" or "--epochs"."""
        path = (*self.path, *rest)
        return flag(path) if self.source is None else f"{self.place(rest)}: {dotted(path)}"


def read_recipe(path: str | os.PathLike[str]) -> Source:
    """Read a recipe file. UsageError "file:line:column: ..." for one that is no mapping of names to values."""
    return parse_recipe(read_text(path), os.fspath(path))


def parse_recipe(text: str, name: str) -> Source:
    """The same of the text of a file."""
    document = read_yaml(text, name)
    if not isinstance(document.data, dict):
        what = "is empty" if document.data is None else f"holds {shown(document.data)}"
        raise UsageError(f"{name}:1:1: the file {what}; a recipe is a mapping such as 'method: wt'")
    return Source(name, document.data, document.values, document.keys)


def parse_assignments(assignments: Iterable[str], flag: str = "--option") -> dict[str, object]:
    """`["key=value", ...]` to a mapping, the values typed as YAML 1.2 scalars, or `[1, 2]` as lists of them."""
    parsed: dict[str, object] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not key or not equals:
            raise UsageError(f"{flag} is {shown(assignment)}; it must be key=value")
        if key in parsed:
            raise UsageError(f"{flag} {key} is given twice; give it once")
        try:
            parsed[key] = read_yaml(text, f"{flag} {key}").data if text.startswith("[") else scalar(text)
        except ValueError as error:
            raise UsageError(f"{flag} {key} is {error}") from error
    return parsed


def resolve(source: Source | None, overrides: Mapping[str, object], registry: Registry) -> Recipe:
    """The recipe that a file and the flags over it make, with every default filled in.

    `overrides` is keyed as the recipe; None means "not given"; mappings of options merge key by key. Every fault is a
    UsageError that names file:line:column, or the flag.
    """
    layers = [_layer(source.data, source)] if source else []
    layers.append(_layer({key: value for key, value in overrides.items() if value is not None}, None))
    top = {key: given for own, _ in layers for key, given in own.items()}
    data = {key: given.value for key, given in top.items()}
    givens = dict(top)
    for section, part in PARTS.items():
        own = {key: given for _, options in layers for key, given in options[section].items()}
        entry = _entry(section, top.get(section), registry)
        values = _checked(f"{section} {entry.name}", entry, own).model_dump(mode="json")
        for name in part.shortcuts:
            data[name] = values.get(name)
        # None at the top says "the default", so an option that really is None stays with the options.
        data[part.options] = {k: v for k, v in values.items() if k not in part.shortcuts or v is None}
        givens.update({name: given for name, given in own.items() if name in part.shortcuts})
    try:
        recipe = Recipe.model_validate(data)
    except ValidationError as error:
        _refuse("the recipe", error, data, givens)
    if recipe.feedback not in (None, "none"):
        registry.find("feedback rule", recipe.feedback, where=givens["feedback"].called())
    # Only where every layer's output has `width` dimensions: a convolution's has that many for each position.
    if getattr(registry.find("model", recipe.model).entry.options, "width_bounds_k", False):
        _refuse_k_above_width(recipe, givens)
    return recipe


def section_options(recipe: Recipe, section: Section, registry: Registry) -> Options:
    """The option object that the section's target is called with: its options and shortcuts, as its schema has them."""
    part = PARTS[section]
    entry = registry.find(section, getattr(recipe, section)).entry
    shortcuts = {name: getattr(recipe, name) for name in part.shortcuts if name in entry.options.model_fields}
    return entry.options.model_validate(getattr(recipe, part.options) | shortcuts)


def default_of(key: str, registry: Registry) -> object:
    """The value of a key where nobody gives one: for a shortcut, that of the default method or model, if it has it."""
    for section, part in PARTS.items():
        if key in part.shortcuts:
            entry = registry.find(section, Recipe.model_fields[section].default).entry
            option = entry.options.model_fields.get(key)
            return None if option is None else option.default
    return Recipe.model_fields[key].default


def flags_of(recipe: Recipe, registry: Registry, left_out: Sequence[str] = ()) -> list[str]:
    """The flags of `fgcli train` that say what the recipe has, but for what is as it is by default, and `left_out`."""
    names = {name: getattr(recipe, name) for name in PARTS if name not in left_out}
    usual = resolve(None, names, registry).model_dump(mode="json")
    usual |= {name: Recipe.model_fields[name].default for name in names}
    words: list[str] = []
    for key, value in recipe.model_dump(mode="json").items():
        if key in left_out or value in (None, usual[key]):
            continue
        if isinstance(value, dict):
            own = {name: one for name, one in value.items() if one is not None and one != usual[key].get(name)}
            words += [word for name, one in own.items() for word in (flag((key,)), f"{name}={_spelled(one)}")]
        elif isinstance(value, bool):
            words.append(flag((key,)).split("/")[not value])
        else:
            words += [flag((key,)), ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def _spelled(value: object) -> str:
    """A value in `KEY=VALUE`."""
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def dump(recipe: Recipe) -> str:
    """YAML that `read_recipe` and `resolve` turn into an equal recipe; keys in the order of `Recipe`."""
    return dump_plain(recipe.model_dump(mode="json"))


def dump_plain(data: Mapping[str, object]) -> str:
    """YAML of plain data that `read_yaml` reads back as it was."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**16)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would read as something else; PyYAML's own rules are those of 1.1."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if _is_plain(text) else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def _is_plain(text: str) -> bool:
    try:
        return text.isprintable() and scalar(text) == text
    except ValueError:
        return False


def _layer(
    data: Mapping[str, object], source: Source | None
) -> tuple[dict[str, _Given], dict[Section, dict[str, _Given]]]:
    """What one source gives: single values, and the options of each section with the shortcuts among them."""
    if source and "grid" in data:
        place = source.place(("grid",), key=True)
        raise UsageError(f"{place}: this is a sweep of many runs; run it with: {command_line('bench', source.name)}")
    for key in data:
        if key not in Recipe.model_fields:
            raise unknown("recipe key", key, Recipe.model_fields, where=_Given(None, (key,), source).place(key=True))
    top = {key: _Given(value, (key,), source) for key, value in data.items()}
    options: dict[Section, dict[str, _Given]] = {s: _options(top, part) for s, part in PARTS.items()}
    return top, options


def _options(top: dict[str, _Given], part: Part) -> dict[str, _Given]:
    """Take a section's options and shortcuts out of `top`."""
    block = top.pop(part.options, None)
    options: dict[str, _Given] = {}
    if block is not None and block.value is not None:
        if not isinstance(block.value, Mapping):
            allowed = "it must be a mapping of option names to values"
            raise UsageError(f"{block.called()} is {shown(block.value)}; {allowed}")
        options = {key: _Given(value, (*block.path, key), block.source) for key, value in block.value.items()}
    for name in part.shortcuts:
        shortcut = top.pop(name, None)
        if shortcut is None or shortcut.value is None:
            continue
        if name in options:
            other = (dotted if shortcut.source else flag)(options[name].path)
            raise UsageError(f"{shortcut.called()} and {other} say the same; give one of them")
        options[name] = shortcut
    return options


def _entry(section: Section, given: _Given | None, registry: Registry) -> Entry:
    if given is None:
        return registry.find(section, Recipe.model_fields[section].default).entry
    if not isinstance(given.value, str):
        raise UsageError(f"{given.called()} is {shown(given.value)}; it must be the name of a {section}")
    return registry.find(section, given.value, where=given.place()).entry


def _checked(owner: str, entry: Entry, own: dict[str, _Given]) -> Options:
    """The options of `entry` with the defaults filled in."""
    known = entry.options.model_fields
    for name, given in own.items():
        if name not in known and len(given.path) == 1:  # a shortcut: not misspelt, but given to the wrong owner
            options = f"its options: {', '.join(sorted(known))}" if known else "it has none"
            raise UsageError(f"{given.called()} is given, but {owner} has no option {name}; {options}")
        if name not in known:
            raise unknown(f"option of {owner}", name, known, where=given.place(key=True))
    data = {name: given.value for name, given in own.items()}
    try:
        return entry.options.model_validate(data)
    except ValidationError as error:
        _refuse(owner, error, data, own)
    except Exception as error:  # a schema's validator that raises something else
        raise UsageError(f"{owner}: checking its options failed: {type(error).__name__}: {error}") from error


def _refuse(owner: str, error: ValidationError, data: Mapping[str, object], givens: Mapping[str, _Given]) -> NoReturn:
    path, sentence = first_fault(error, data)
    given = givens.get(str(path[0])) if path else None
    if given:
        raise UsageError(f"{given.called(path[1:])} {sentence}") from error
    if path:
        raise UsageError(f"option {dotted(path)} of {owner} {sentence}") from error
    # A check of several options together: the place is that of the first, where all are from the file.
    places = [given.place() for given in givens.values() if given.source]
    prefix = f"{places[0]}: " if places and len(places) == len(givens) else ""
    raise UsageError(f"{prefix}{owner}: {sentence}") from error


def _refuse_k_above_width(recipe: Recipe, givens: Mapping[str, _Given]) -> None:
    k, width = recipe.k, recipe.width
    if not isinstance(k, int) or width is None or k <= width:
        return
    if given := givens.get("k"):
        raise UsageError(f"{given.called()} is {k}; it must be at most the width, {width}")
    narrow = givens["width"].called() if "width" in givens else "width"
    raise UsageError(f"{narrow} is {width}, below k, which is {k} by default; set k to at most {width}")


def dotted(path: Path) -> str:
    """A path as messages spell it: `views[0].where.label`."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def flag(path: Path) -> str:
    """The flag that gives the value at `path`: `--width`, `--dataset-option padding[0]`."""
    first, *rest = path
    name = f"--{first}".replace("_", "-")
    if first in {part.options for part in PARTS.values()}:
        return f"{name.removesuffix('s')} {dotted(tuple(rest))}".strip()
    field = Recipe.model_fields.get(str(first))
    if field and field.annotation in (bool, bool | None):
        return f"{name}/{name.replace('--', '--no-', 1)}"
    return name + dotted(tuple(rest))
