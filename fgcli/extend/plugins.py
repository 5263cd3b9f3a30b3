"""Finds plugins: the built-ins, then the entry points of group "fg", one at a time. Imports no torch.

A plugin that fails to import, misspells a hook, raises in one or registers a name twice is set aside with its cause;
the rest goes on.
"""

import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import NamedTuple

from pluggy import PluginManager

from fgcli import __version__
from fgcli.errors import one_line
from fgcli.extend import hookspecs
from fgcli.extend.entry import Entry
from fgcli.extend.hookspecs import CONTRACT

GROUP = "fg"
ALLOWED = "FG_PLUGINS"
BUILT_IN = "fgcli.builtin"  # by name: it stands above this package, as any plugin does
BUILT_IN_DISTRIBUTION = "fgcli"

# `--method` names guess methods and estimators alike, so no name may be in both.
_SHARED_NAMES = {"fg_estimators": "fg_guess_methods"}


@dataclass(frozen=True)
class Origin:
    """The distribution that a plugin came with, and its module."""

    distribution: str
    version: str
    module: str = ""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"

    def is_called(self, distribution: str) -> bool:
        """Whether that is the distribution's name; `My_Plugin` and `my-plugin` are one name, as for pip."""
        return normalized(self.distribution) == normalized(distribution)


@dataclass(frozen=True)
class Broken:
    """A plugin that was set aside, and why, in one line."""

    origin: Origin
    cause: str
    trace: str = field(default="", compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.origin}: {self.cause}"


class Registered(NamedTuple):
    """One entry, the hook that returned it and where it came from."""

    hook: str
    origin: Origin
    entry: Entry


class Plugins:
    """The plugins that registered, and those that could not, or may not."""

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self.left_out: list[Origin] = []
        self.heavy: list[Origin] = []
        """Those that import torch when they are loaded, and so slow down every command."""
        self._manager = PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._good: list[tuple[object, Origin]] = []

    @property
    def origins(self) -> list[Origin]:
        """Of the plugins in use."""
        return [origin for _, origin in self._good]

    def register(self, plugin: object, origin: Origin) -> None:
        """Register one plugin.

        PluginValidationError for a malformed hook, LookupError for a misspelt one, none or another contract.
        """
        if self._manager.is_registered(plugin):
            return  # two entry points for one module
        _refuse_other_contract(plugin)
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
        was_loaded = "torch" in sys.modules
        try:
            with _silenced():
                self.register(point.load(), origin)
        except (Exception, SystemExit) as cause:
            self._set_aside(origin, cause)
        if not was_loaded and "torch" in sys.modules:
            self.heavy.append(origin)

    def collect(self, hooks: Iterable[str]) -> list[Registered]:
        """What the plugins return from `hooks`; a plugin that fails in one of them is set aside whole."""
        hooks, found = list(hooks), []
        taken: set[tuple[str, str, str]] = set()
        for plugin, origin in list(self._good):
            try:
                with _silenced():
                    own = [Registered(hook, origin, entry) for hook in hooks for entry in self._call(hook, plugin)]
                _refuse_taken_names(own, taken)
            except (Exception, SystemExit) as cause:
                self._good.remove((plugin, origin))
                self._manager.unregister(plugin)
                self._set_aside(origin, cause)
            else:
                found += own
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
        trace = "".join(traceback.format_exception(cause))
        self.broken.append(Broken(origin, one_line(f"{type(cause).__name__}: {cause}"), trace))


def load_plugins(found: Iterable[EntryPoint] | None = None) -> Plugins:
    """The built-ins and the installed plugins, or those of `found` in place of the installed ones.

    Where the environment variable FG_PLUGINS is set, only the distributions that it names, with commas between; where
    it is empty, none.
    """
    plugins = Plugins()
    plugins.register(import_module(BUILT_IN), Origin(BUILT_IN_DISTRIBUTION, __version__, BUILT_IN))
    allowed = _allowed(os.environ.get(ALLOWED))
    seen: set[str] = set()
    for point in entry_points(group=GROUP) if found is None else found:
        origin = _origin(point)
        seen.add(normalized(origin.distribution))
        if allowed is None or normalized(origin.distribution) in allowed:
            plugins.add(point)
        else:
            plugins.left_out.append(origin)
    for name in sorted((allowed or set()) - seen - {BUILT_IN_DISTRIBUTION}):
        plugins.broken.append(Broken(Origin(name, "?"), f"{ALLOWED} names it, but it is not installed"))
    return plugins


def normalized(distribution: str) -> str:
    """A distribution's name as package tools compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _allowed(text: str | None) -> set[str] | None:
    return None if text is None else {normalized(name.strip()) for name in text.split(",") if name.strip()}


def _refuse_other_contract(plugin: object) -> None:
    made_for = getattr(plugin, "FG_CONTRACT", 1)
    if made_for != CONTRACT:
        raise LookupError(f"it is made for contract {made_for!r} of fg's plugins, and this fg has contract {CONTRACT}")


def _refuse_taken_names(own: list[Registered], taken: set[tuple[str, str, str]]) -> None:
    """ValueError for a name that its distribution has already, or that replaces a command of fg; else takes them."""
    names: set[tuple[str, str, str]] = set()
    for hook, origin, entry in own:
        distribution, shared = normalized(origin.distribution), _SHARED_NAMES.get(hook, hook)
        if (distribution, shared, entry.name) in names | taken:
            raise ValueError(f"{hook} returned {entry.name!r}, which {origin} registers twice")
        if hook == "fg_subcommands" and (BUILT_IN_DISTRIBUTION, hook, entry.name) in taken:
            raise ValueError(f"{hook} returned {entry.name!r}, a command of fg itself; give it another name")
        names.add((distribution, shared, entry.name))
    taken.update(names)


@contextmanager
def _silenced() -> Iterator[None]:
    """What a plugin prints goes to standard error: standard output is the command's own."""
    with redirect_stdout(sys.stderr):
        yield


def _origin(point: EntryPoint) -> Origin:
    if point.dist is None:
        return Origin(point.value, "unpackaged", point.module)
    return Origin(str(point.dist.name), str(point.dist.version), point.module)
