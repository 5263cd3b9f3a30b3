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
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from pluggy import PluginManager

from fgcli import __version__
from fgcli.errors import UsageError, exception_text, one_line
from fgcli.extend import hookspecs
from fgcli.extend.entry import Entry
from fgcli.extend.hookspecs import CONTRACT
from fgcli.extend.options import with_engine_options

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
    file: str = ""
    """Of a plugin that is a file, and of a module of the user's own."""

    def __str__(self) -> str:
        """As it is recorded, with the version."""
        return f"{self.distribution} {self.version}"

    @property
    def shown(self) -> str:
        """As messages name it: by its file, where a user knows it by that."""
        return self.file or str(self)

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
        return f"{self.origin.shown}: {self.cause}"


class Registered(NamedTuple):
    """One entry, the hook that returned it and where it came from."""

    hook: str
    origin: Origin
    entry: Entry

    def load(self) -> Any:
        """Import the entry's target, as `Entry.load`; the UsageError names the plugin and the mend, too."""
        try:
            return self.entry.load()
        except UsageError as error:
            mend = (
                "mend that file"
                if self.origin.file
                else f"mend that plugin, uninstall it, or leave it out of {ALLOWED}"
            )
            raise UsageError(f"{error} (registered by {self.origin.shown}; {mend})") from error


class Plugins:
    """The plugins that registered, and those that could not, or may not."""

    def __init__(self) -> None:
        self.broken: list[Broken] = []
        self.left_out: list[Origin] = []
        self.missing: list[str] = []
        """Distributions that FG_PLUGINS names and that are not installed."""
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
        if not any(self._manager.parse_hookimpl_opts(plugin, name) for name in dir(plugin)):
            raise LookupError("it has no hooks; mark them with @hookimpl")
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
        # What a plugin prints goes to standard error: standard output is the command's own.
        with self.setting_aside(origin), redirect_stdout(sys.stderr):
            if not point.pattern.match(point.value):
                raise ValueError(f"its entry point {point.name} is {point.value!r}; it must be the name of a module")
            self.register(point.load(), origin)
        if not was_loaded and "torch" in sys.modules:
            self.heavy.append(origin)

    def collect(self, hooks: Iterable[str]) -> list[Registered]:
        """What the plugins return from `hooks`; a plugin that fails in one of them is set aside whole."""
        hooks, found = list(hooks), []
        taken: set[tuple[str, str, str]] = set()
        good: list[tuple[object, Origin]] = []
        for plugin, origin in self._good:
            with self.setting_aside(origin):
                with redirect_stdout(sys.stderr):
                    own = [Registered(hook, origin, entry) for hook in hooks for entry in self._call(hook, plugin)]
                _refuse_taken_names(own, taken)
                found += own
                good.append((plugin, origin))
        self._good = good
        return found

    @contextmanager
    def setting_aside(self, origin: Origin) -> Iterator[None]:
        """Whatever a plugin's code raises within, an exit too, is kept in `broken`; an interrupt is the user's."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as cause:
            trace = "".join(traceback.format_exception(cause))
            self.broken.append(Broken(origin, one_line(exception_text(cause)), trace))

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
                is_guess = hook == "fg_guess_methods"
                yield replace(entry, options=with_engine_options(entry.options)) if is_guess else entry

    def _refuse_unknown_hooks(self, plugin: object) -> None:
        known = [name for name in vars(hookspecs) if name.startswith("fg_")]
        for caller in self._manager.get_hookcallers(plugin) or ():
            if caller.spec is None:
                near = get_close_matches(caller.name, known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise LookupError(f"there is no hook {caller.name}{hint}")


def load_plugins() -> Plugins:
    """The built-ins and the installed plugins.

    Where the environment variable FG_PLUGINS is set, only the distributions that it names, with commas between; where
    it is empty, none.
    """
    plugins = Plugins()
    plugins.register(import_module(BUILT_IN), Origin(BUILT_IN_DISTRIBUTION, __version__, BUILT_IN))
    text = os.environ.get(ALLOWED)
    allowed = None if text is None else {normalized(name.strip()) for name in text.split(",") if name.strip()}
    points = sorted(entry_points(group=GROUP), key=lambda point: (_origin(point).distribution, point.name))
    for point in points:
        origin = _origin(point)
        if allowed is None or normalized(origin.distribution) in allowed:
            plugins.add(point)
        else:
            plugins.left_out.append(origin)
    known = {normalized(_origin(point).distribution) for point in points} | {BUILT_IN_DISTRIBUTION}
    plugins.missing += sorted((allowed or set()) - known)
    return plugins


def normalized(distribution: str) -> str:
    """A distribution's name as package tools compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _refuse_other_contract(plugin: object) -> None:
    made_for: Any = getattr(plugin, "FG_CONTRACT", None)
    if type(made_for) is int and made_for == CONTRACT:
        return
    said = f"it is made for contract {made_for!r} of fg's plugins"
    if not hasattr(plugin, "FG_CONTRACT"):
        said = f"it has no line FG_CONTRACT = {CONTRACT}, as plugins for contract 1 have none"
    page = '; docs/plugins.md says what to change ("From contract 1 to 2")'
    told = page if made_for is None or made_for in range(CONTRACT) else ""
    raise LookupError(f"{said}, and this fg has contract {CONTRACT}{told}")


def _refuse_taken_names(own: list[Registered], taken: set[tuple[str, str, str]]) -> None:
    """ValueError for a name that its distribution has already, or that replaces a command of fg; else takes them."""
    names: set[tuple[str, str, str]] = set()
    for hook, origin, entry in own:
        distribution, shared = normalized(origin.distribution), _SHARED_NAMES.get(hook, hook)
        if (distribution, shared, entry.name) in names | taken:
            raise ValueError(f"{hook} returned {entry.name!r}, which {origin.shown} registers twice")
        if hook == "fg_subcommands" and (BUILT_IN_DISTRIBUTION, hook, entry.name) in taken:
            raise ValueError(f"{hook} returned {entry.name!r}, a command of fg itself; give it another name")
        names.add((distribution, shared, entry.name))
    taken.update(names)


def _origin(point: EntryPoint) -> Origin:
    assert point.dist is not None  # it is of a distribution
    matched = point.pattern.match(point.value)
    module = matched["module"] if matched else ""
    return Origin(point.dist.name or module, point.dist.version or "of unknown version", module)
