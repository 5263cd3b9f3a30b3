"""Names to entries, over all plugins. Imports no torch: `Entry.load` does."""

from functools import cache
from typing import Literal

from fgcli.errors import UsageError, unknown
from fgcli.extend.entry import Entry
from fgcli.extend.plugins import Broken, Plugins, Registered, load_plugins

Kind = Literal["guess method", "estimator", "dataset", "model", "optimizer"]
MethodKind = Literal["guess method", "estimator"]

HOOKS: dict[Kind, str] = {
    "guess method": "fg_guess_methods",
    "estimator": "fg_estimators",
    "dataset": "fg_datasets",
    "model": "fg_models",
    "optimizer": "fg_optimizers",
}
METHOD_KINDS: tuple[MethodKind, ...] = ("guess method", "estimator")


class Registry:
    """What can be named in a recipe. Methods are guess methods and estimators under one roof of names."""

    def __init__(self, plugins: Plugins) -> None:
        registered = plugins.collect(HOOKS.values())
        self.broken: tuple[Broken, ...] = tuple(plugins.broken)
        self._found: dict[Kind, list[Registered]] = {
            kind: [one for one in registered if one.hook == hook] for kind, hook in HOOKS.items()
        }

    def names(self, kind: Kind) -> list[str]:
        """The registered names of a kind, sorted."""
        return sorted({one.entry.name for one in self._found[kind]})

    def method_names(self) -> list[str]:
        """The names that `--method` takes, sorted."""
        return sorted({name for kind in METHOD_KINDS for name in self.names(kind)})

    def entry(self, kind: Kind, name: str, *, where: str = "") -> Entry:
        """The entry of that name. UsageError if there is none, or more than one plugin has it.

        `where` is the place in a file, or the flag, that the message begins with.
        """
        found = self._having(kind, name)
        _refuse_all_but_one(kind, name, found, where)
        if not found:
            raise self._unknown(kind, name, self.names(kind), where)
        return found[0].entry

    def method(self, name: str, *, where: str = "") -> tuple[MethodKind, Entry]:
        """The guess method or estimator of that name, and which of the two it is. Errors as in `entry`."""
        found: list[tuple[MethodKind, Registered]] = [
            (kind, one) for kind in METHOD_KINDS for one in self._having(kind, name)
        ]
        _refuse_all_but_one("method", name, [one for _, one in found], where)
        if not found:
            raise self._unknown("method", name, self.method_names(), where)
        kind, one = found[0]
        return kind, one.entry

    def _having(self, kind: Kind, name: str) -> list[Registered]:
        return [one for one in self._found[kind] if one.entry.name == name]

    def _unknown(self, kind: str, name: str, known: list[str], where: str) -> UsageError:
        """The name may be one that a broken plugin would have registered: say why those are missing."""
        error = unknown(kind, name, known, where=where)
        if not self.broken:
            return error
        return UsageError(f"{error}; set aside as broken: {'; '.join(map(str, self.broken))}")


@cache
def load_registry() -> Registry:
    """The registry of this process: built-ins and installed plugins."""
    return Registry(load_plugins())


def _refuse_all_but_one(kind: str, name: str, found: list[Registered], where: str) -> None:
    if len(found) > 1:
        origins = " and ".join(str(one.origin) for one in found)
        prefix = f"{where}: " if where else ""
        raise UsageError(f"{prefix}{kind} {name!r} is registered more than once, by {origins}; uninstall all but one")
