"""`fgcli plugins`: the distributions that extend fg, what each adds, and why a broken one was set aside. No torch."""

import importlib
import json as json_text
from typing import Annotated, Any

import typer

from fgcli.extend.plugins import ALLOWED, Origin
from fgcli.extend.registry import HOOKS, Registry, load_registry


def plugins(
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Also each target and file, and the traceback of a broken plugin.")
    ] = False,
) -> None:
    """List plugins: distribution, version, what each adds and from where; and the broken ones with the cause."""
    registry = load_registry()
    listing = {
        "plugins": [_describe(registry, origin) for origin in registry.origins],
        "broken": [_names(one.origin) | {"cause": one.cause, "traceback": one.trace} for one in registry.broken],
        "left_out": [_names(origin) for origin in registry.left_out],
        "missing": list(registry.missing),
    }
    if json:
        print(json_text.dumps(listing))
    else:
        _show(listing, registry.complaints(), verbose)


def _describe(registry: Registry, origin: Origin) -> dict[str, Any]:
    adds = [
        {"kind": kind, "name": one.entry.name, "target": one.entry.target, "summary": one.entry.summary}
        for kind in HOOKS
        for one in registry.registered(kind)
        if one.origin == origin
    ]
    file = getattr(importlib.import_module(origin.module), "__file__", None) if origin.module else None
    return _names(origin) | {"file": file, "imports_torch": origin in registry.heavy, "adds": adds}


def _names(origin: Origin) -> dict[str, Any]:
    return {"distribution": origin.distribution, "version": origin.version, "module": origin.module}


def _show(listing: dict[str, Any], complaints: list[str], verbose: bool) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)

    def say(line: str, style: str = "") -> None:
        console.print(Text(line, style), soft_wrap=True)

    for plugin in listing["plugins"]:
        say(f"{plugin['distribution']} {plugin['version']}  (module {plugin['module']})", "bold")
        if verbose:
            say(f"  {plugin['file']}")
        for kind in dict.fromkeys(added["kind"] for added in plugin["adds"]):
            of_kind = [added for added in plugin["adds"] if added["kind"] == kind]
            say(f"  {kind:14}{', '.join(added['name'] for added in of_kind)}")
            for added in of_kind if verbose else ():
                say(f"    {added['name']}  {added['target']}", "dim")
        if plugin["imports_torch"]:
            say("  slow: it imports torch when it is loaded; move that into what its targets name", "yellow")
    for complaint in complaints:
        say(f"broken: {complaint}", "red")
    for broken in listing["broken"] if verbose else ():
        say(f"{broken['distribution']} {broken['version']}:", "red")
        say(broken["traceback"])
    for origin in listing["left_out"]:
        say(f"left out by {ALLOWED}: {origin['distribution']} {origin['version']}", "dim")
