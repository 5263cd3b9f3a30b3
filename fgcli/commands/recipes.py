"""`fgcli recipes`: list, show, copy and check recipes, and what may stand in one. Imports no torch."""

import math
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fgcli.errors import UsageError
from fgcli.shell import command_line

if TYPE_CHECKING:
    from fgcli.recipe import Source


class Action(StrEnum):
    LIST = "list"
    SHOW = "show"
    COPY = "copy"
    VALIDATE = "validate"
    SCHEMA = "schema"


def recipes(
    action: Annotated[Action, typer.Argument(help="list; show NAME; copy NAME FILE; validate NAME...; schema.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names of shipped recipes, or files.")
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            "--plugin",
            help="validate: also use the plugin in this file, which is executed; repeatable.",
            metavar="FILE",
        ),
    ] = None,
) -> None:
    """List, show, copy or check recipes, or show what may stand in one."""
    given = names or []
    least, most, wanted = _TAKES.get(action, (0, 0, "no names"))
    if not least <= len(given) <= most:
        raise UsageError(f"fgcli recipes {action} is given {len(given)} names; it takes {wanted}")
    if action is Action.LIST:
        _list()
    elif action is Action.SHOW:
        print(_text(given[0]), end="")
    elif action is Action.COPY:
        _copy(given[0], Path(given[1]))
    elif action is Action.VALIDATE:
        from fgcli.commands.validate import validate

        validate(given, tuple(plugin or ()))
    else:
        from fgcli.commands.recipe_schema import schema_text

        print(schema_text(), end="")


_TAKES = {
    Action.SHOW: (1, 1, "one recipe: fgcli recipes show table3"),
    Action.COPY: (2, 2, "a recipe and a new file: fgcli recipes copy table3 mine.yaml"),
    Action.VALIDATE: (1, math.inf, "recipes: fgcli recipes validate mine.yaml"),
}
"""How many names each action takes, but for those that take none."""


def _list() -> None:
    from fgcli.recipe import read_recipe
    from fgcli.recipes import find, names

    rows = [(name, *_kind_and_title(read_recipe(find(name)))) for name in names()]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, kind, title in rows:
        print(f"{name:{widths[0]}}  {kind:{widths[1]}}  {title}")


def _kind_and_title(source: "Source") -> tuple[str, str]:
    """`100 runs` and the title of a sweep; `a run` and its method."""
    from fgcli.sweep.plan import size
    from fgcli.sweep.read import is_sweep, parse_sweep

    if not is_sweep(source):
        return "a run", str(source.data.get("title") or source.data.get("method") or "")
    sweep = parse_sweep(source)
    return f"{size(sweep.grid)} runs", sweep.title


def _text(name: str) -> str:
    from fgcli.recipes import find
    from fgcli.yaml_reader import read_text

    return read_text(find(name, where="NAME"))


def _copy(name: str, to: Path) -> None:
    text = _text(name)
    try:
        with to.open("x", encoding="utf-8") as file:  # never over what is there
            file.write(text)
    except FileExistsError as error:
        raise UsageError(f"{to} exists; give another name, or remove it") from error
    except OSError as error:
        raise UsageError(f"cannot write {to}: {error.strerror}") from error
    print(f"wrote {to}; change it, then: {command_line('recipes', 'validate', to)}")
