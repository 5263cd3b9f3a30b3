"""Finds plugins: the built-ins, then the entry points of group "fg", one at a time. Imports no torch.

A plugin that fails to import, misspells a hook or raises in one is set aside with its cause; the rest goes on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from pluggy import PluginManager

from fgcli import __version__
from fgcli.errors import one_line
from fgcli.extend import hookspecs
from fgcli.extend.entry import Entry

GROUP = "fg"
BUILT_IN = "fgcli.builtin"  # by name: it stands above this package, as any plugin does


@dataclass(frozen=True)
class Origin:
    """The distribution that a plugin came with."""

    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Broken:
    """A plugin that was set aside, and why, in one line."""

    origin: Origin
    cause: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.cause}"


class Registered(NamedTuple):
    """One entry, the hook that returned it and where it came from."""

    hook: str
    origin: Origin
    entry: Entry


class Plugins:
    """The plugins that registered, and those that could not."""

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self._manager = PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._good: list[tuple[object, Origin]] = []

    def register(self, plugin: object, origin: Origin) -> None:
        """Register one plugin. PluginValidationError for a malformed hook, LookupError for a misspelt one or none."""
        if self._manager.is_registered(plugin):
            return  # two entry points for one module
        try:
            self._manager.register(plugin)
            self._refuse_unknown_hooks(plugin)
        except Exception:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            raise
        self._good.append((plugin, origin))

    def add(self, point: EntryPoint) -> None:
        """Load and register one entry point; whatever goes wrong is kept in `broken`."""
        origin = _origin(point)
        try:
            self.register(point.load(), origin)
        except (Exception, SystemExit) as cause:
            self._set_aside(origin, cause)

    def collect(self, hooks: Iterable[str]) -> list[Registered]:
        """What the plugins return from `hooks`; a plugin that fails in one of them is set aside whole."""
        hooks, found = list(hooks), []
        for plugin, origin in list(self._good):
            try:
                found += [Registered(hook, origin, entry) for hook in hooks for entry in self._call(hook, plugin)]
            except (Exception, SystemExit) as cause:
                self._good.remove((plugin, origin))
                self._manager.unregister(plugin)
                self._set_aside(origin, cause)
        return found

    def _call(self, hook: str, plugin: object) -> Iterator[Entry]:
        # Not through the hook's own call: there, one plugin that raises takes the others with it.
        for implementation in getattr(self._manager.hook, hook).get_hookimpls():
            if implementation.plugin is not plugin:
                continue
            listed = implementation.function()
            if not isinstance(listed, list | tuple):
                raise TypeError(f"{hook} returned {type(listed).__name__}; it must return a list of Entry")
            for entry in listed:
                if not isinstance(entry, Entry):
                    raise TypeError(f"{hook} returned {entry!r} in its list; it must hold Entry only")
                yield entry

    def _refuse_unknown_hooks(self, plugin: object) -> None:
        known = [name for name in vars(hookspecs) if name.startswith("fg_")]
        callers = self._manager.get_hookcallers(plugin)
        if not callers:
            raise LookupError("it has no hooks; mark them with @hookimpl")
        for caller in callers:
            if caller.spec is None:
                near = get_close_matches(caller.name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise LookupError(f"there is no hook {caller.name}{hint}")

    def _set_aside(self, origin: Origin, cause: BaseException) -> None:
        self.broken.append(Broken(origin, one_line(f"{type(cause).__name__}: {cause}")))


def load_plugins(found: Iterable[EntryPoint] | None = None) -> Plugins:
    """The built-ins and the installed plugins, or those of `found` in place of the installed ones."""
    plugins = Plugins()
    plugins.register(import_module(BUILT_IN), Origin("fgcli", __version__))
    for point in entry_points(group=GROUP) if found is None else found:
        plugins.add(point)
    return plugins


def _origin(point: EntryPoint) -> Origin:
    return Origin(str(point.dist.name), str(point.dist.version)) if point.dist else Origin(point.value, "unpackaged")
