"""Plugins for tests: modules with hooks in memory, and distributions as pip would have installed them."""

from pathlib import Path
from textwrap import dedent
from types import SimpleNamespace

from fgcli.extend.entry import Entry
from fgcli.extend.hookspecs import CONTRACT, hookimpl
from fgcli.extend.plugins import Origin, Plugins, load_plugins
from fgcli.extend.registry import Registry

ONE_METHOD = """
    from fgcli import Entry, hookimpl

    FG_CONTRACT = 2

    @hookimpl
    def fg_guess_methods():
        return [Entry("theirs", "their_module:Theirs", "A guess.")]
"""


def plugin(**hooks: list[Entry]) -> object:
    """A plugin whose hook `name` returns the entries given for it."""

    def returning(name: str, entries: list[Entry]) -> object:
        def hook() -> list[Entry]:
            return entries

        hook.__name__ = name
        return hookimpl(hook)

    return SimpleNamespace(FG_CONTRACT=CONTRACT, **{name: returning(name, entries) for name, entries in hooks.items()})


def registry(**hooks: list[Entry]) -> Registry:
    """A registry of one plugin."""
    plugins = Plugins()
    plugins.register(plugin(**hooks), Origin("fake", "1.0"))
    return Registry(plugins)


def registry_with(**hooks: list[Entry]) -> Registry:
    """The registry of the built-ins and one plugin."""
    plugins = load_plugins()
    plugins.register(plugin(**hooks), Origin("fake", "1.0"))
    return Registry(plugins)


def install(folder: Path, distribution: str, source: str, version: str = "1.0") -> None:
    """Write a distribution with one module and its entry point into `folder`, to be put on sys.path."""
    module = distribution.replace("-", "_")
    (folder / f"{module}.py").write_text(dedent(source), encoding="utf-8")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(f"[fg]\n{module} = {module}\n", encoding="utf-8")
