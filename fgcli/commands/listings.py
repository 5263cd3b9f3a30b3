"""`fgcli methods`, `fgcli datasets`, `fgcli models`: what can be named, its options, where it comes from. No torch."""

import json as json_text
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fgcli.extend.describe import default_text, describe, describe_options
from fgcli.extend.options import EngineOptions
from fgcli.extend.plugins import normalized
from fgcli.extend.registry import METHOD_KINDS, Kind, load_registry

if TYPE_CHECKING:
    from rich.padding import Padding

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; all if none is given.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON array to standard output.")]


def methods(names: Names = None, json: Json = False) -> None:
    """List guess methods and estimators: what they do, their options, and the plugin that each is from."""
    _list("method", METHOD_KINDS, names, json)


def datasets(names: Names = None, json: Json = False) -> None:
    """List datasets: what they are, their options, and the plugin that each is from."""
    _list("dataset", ["dataset"], names, json)


def models(names: Names = None, json: Json = False) -> None:
    """List models: what they are, their options, and the plugin that each is from."""
    _list("model", ["model"], names, json)


def _list(what: Kind | Literal["method"], kinds: Sequence[Kind], names: list[str] | None, json: bool) -> None:
    registry = load_registry()
    found = [describe(one, kind) for kind in kinds for one in registry.registered(kind)]
    if names:
        others = [name for name in names if not any(_is_called(row, name) for row in found)]
        found = [row for row in found if any(_is_called(row, name) for name in names)]
        found += [describe(registry.find(what, name), what) for name in others]  # or says why there is none
    if json:
        print(json_text.dumps(found))
    else:
        _show(found)


def _is_called(row: dict[str, Any], name: str) -> bool:
    distribution, _, own_name = name.rpartition(":")
    own = normalized(row["source"]["distribution"])
    return row["name"] == own_name and (not distribution or normalized(distribution) == own)


def _show(found: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    twice = {row["name"] for row in found if sum(other["name"] == row["name"] for other in found) > 1}
    console = Console(highlight=False)
    of_engine = describe_options(EngineOptions)
    rest = list[str]()
    for row in found:
        source = f"{row['source']['distribution']} {row['source']['version']}"
        name = f"{row['source']['distribution']}:{row['name']}" if row["name"] in twice else row["name"]
        console.print(Text(name, "bold") + Text(f"  {row['kind']}, {source}", "dim"), soft_wrap=True)
        console.print(Padding(Text(row["summary"]), (0, 0, 0, 2)))
        own = [option for option in row["options"] if option not in of_engine]
        if len(own) < len(row["options"]):
            rest.append(name)
        if own:
            console.print(_options(own))
    if rest:
        console.print(Text("tangents and memory", "bold") + Text(f"  options of {', '.join(rest)}", "dim"))
        console.print(_options(of_engine))


def _options(options: list[dict[str, Any]]) -> "Padding":
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for option in options:
        cells = (option["name"], f"{option['type']} = {default_text(option)}", option["description"])
        table.add_row(*map(Text, cells))
    return Padding(table, (0, 0, 0, 4))
