"""The flags that say what to train, generated from the fields of `Recipe`. Imports no torch."""

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from fgcli.commands.flags import PluginFiles
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.recipe import Source, default_of, flag, parse_assignments, read_recipe
from fgcli.recipe_keys import Recipe
from fgcli.recipes import find
from fgcli.yaml_reader import scalar

_METAVARS: dict[object, str] = {int: "N", float: "X", str: "NAME"}

RecipeFile = Annotated[
    str | None,
    typer.Option("--recipe", help="A recipe's file, or the name of a shipped one; flags override it.", metavar="FILE"),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="The run directory; a fresh one under ./runs if not given.",
        metavar="DIR",
        rich_help_panel="Output",
    ),
]
_FILES: dict[str, Any] = {"recipe": RecipeFile, "out": Out, "plugin": PluginFiles}


@dataclass(frozen=True)
class RunFlags:
    """What a command line says of a run."""

    given: Mapping[str, Any] = field(default_factory=dict)
    """By the keys of a recipe, as the command line has it; None where it says nothing."""
    recipe: str | None = None
    out: Path | None = None
    plugins: tuple[Path, ...] = ()

    def source(self) -> Source | None:
        """The recipe file. UsageError where it cannot be read."""
        return None if self.recipe is None else read_recipe(find(self.recipe))

    def overrides(self) -> dict[str, object]:
        """What the flags say over a recipe, by its keys; numbers are read as in a recipe.

        UsageError for a malformed flag. Whether its value is allowed is checked with the recipe.
        """
        return {key: _parsed(key, text) for key, text in self.given.items()}

    def words(self) -> list[object]:
        """The flags once more, but --out and --plugin, for a command that is printed."""
        words: list[object] = [] if self.recipe is None else ["--recipe", self.recipe]
        for key, value in self.given.items():
            name = flag((key,))
            if isinstance(value, bool):
                words.append(name.split("/")[not value])
            elif value is not None:
                words += [part for one in (value if isinstance(value, list) else [value]) for part in (name, one)]
        return words


def with_run_flags(*, leave_out: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command a flag for every key of a recipe but those left out, `--recipe`, `--out` and
    `--plugin`. The command gets them as one argument, `run_flags`, a `RunFlags`."""
    hints = {key: _annotation(key, one) for key, one in Recipe.model_fields.items() if key not in leave_out}
    shared = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hint)
        for name, hint in (hints | _FILES).items()
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for name, one in inspect.signature(command).parameters.items() if name != "run_flags"]

        @functools.wraps(command)
        def flagged(**values: Any) -> None:
            given = {key: values.pop(key, None) for key in hints}
            recipe, out, plugins = (values.pop(name, None) for name in _FILES)
            command(**values, run_flags=RunFlags(given, recipe, out, tuple(plugins or ())))

        parameters = [*shared, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)]
        flagged.__dict__["__signature__"] = inspect.Signature(parameters)
        flagged.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": None}
        return flagged

    return decorate


def _annotation(key: str, field: FieldInfo) -> Any:
    """The flag of a key, as typer takes it. None where it is not given, so that the recipe's value holds."""
    origin, values = get_origin(field.annotation), _values(field.annotation)
    help, kind = (field.description or "").replace("`", "").removesuffix("."), str
    metavar = "|".join(value if isinstance(value, str) else _METAVARS.get(value, "VALUE") for value in values)
    if origin is dict:
        kind, metavar, help = list[str], "KEY=VALUE", f"{help}; repeatable"
    elif bool in values:
        kind, metavar = bool, None
    elif origin is list:
        choices = [value for value in values if isinstance(value, str)]
        metavar = "NAME,NAME,…" if choices else f"{metavar},{metavar},…"
        help = f"{help}: {', '.join(choices)}" if choices else help
    if default := _default_text(key):
        help = f"{help} (default {default})"
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    option = typer.Option(flag((key,)), help=f"{help}.", metavar=metavar, rich_help_panel=str(extra["panel"]))
    return Annotated[kind | None, option]


def _values(annotation: object) -> list[object]:
    """The types and literal values that an annotation allows, those in a list among them; without None."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _values(arguments[0])
    if origin is Literal:
        return list(arguments)
    if origin in (Union, types.UnionType, list):
        return [value for argument in arguments for value in _values(argument)]
    return [] if annotation is types.NoneType else [annotation]


def _default_text(key: str) -> str:
    """The default as a flag spells it; empty where there is none, or several plugins have its owner's name."""
    try:
        default = default_of(key, load_registry())
    except UsageError:
        return ""
    if isinstance(default, bool):
        return flag((key,)).split("/")[not default]
    return "" if default is None or default in ({}, []) else str(default)


def _parsed(key: str, given: Any) -> object:
    field = Recipe.model_fields[key]
    origin = get_origin(field.annotation)
    if origin is dict:
        return parse_assignments(given or [], flag((key,)))
    if not isinstance(given, str):
        return given
    numeric = any(kind in _values(field.annotation) for kind in (int, float))
    if origin is list:
        return [_number(key, part.strip()) if numeric else part.strip() for part in given.split(",") if part.strip()]
    return _number(key, given) if numeric else given


def _number(key: str, text: str) -> object:
    """A number, where the text is one."""
    try:
        value = scalar(text)
    except ValueError as error:
        raise UsageError(f"{flag((key,))} is {error}") from error
    return text if value is None else value
