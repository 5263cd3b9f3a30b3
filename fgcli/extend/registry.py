"""Names to entries, over all plugins. Imports no torch: `Entry.load` does."""

from functools import cache
from pathlib import Path
from typing import Literal, get_args

from fgcli.errors import UsageError, unknown
from fgcli.extend import factory
from fgcli.extend.data_path import find_data, find_prefixed
from fgcli.extend.entry import Entry
from fgcli.extend.plugin_file import add_file
from fgcli.extend.plugins import ALLOWED, BUILT_IN_DISTRIBUTION, Broken, Origin, Plugins, Registered, load_plugins

Kind = Literal[
    "guess method", "estimator", "dataset", "model", "feedback rule", "loss", "optimizer", "lr_schedule", "executor",
    "metric sink", "subcommand",
]  # fmt: skip
MethodKind = Literal["guess method", "estimator"]

HOOKS: dict[Kind, str] = {
    kind: f"fg_{kind.replace(' ', '_')}{'es' if kind == 'loss' else 's'}" for kind in get_args(Kind)
}
METHOD_KINDS: tuple[MethodKind, ...] = get_args(MethodKind)


class Registry:
    """What can be named in a recipe or on the command line.

    Methods are guess methods and estimators under one roof of names. A name that several distributions have is used
    as `distribution:name`; any name may be. A dataset, model, loss or learning-rate schedule may also be the user's
    own, as `package.module:factory`, and a dataset the path of a file or folder.
    """

    def __init__(self, plugins: Plugins, files: tuple[Path, ...] = ()) -> None:
        self.files = files
        """Plugins that were given as files."""
        registered = plugins.collect(HOOKS.values())
        self.broken: tuple[Broken, ...] = tuple(plugins.broken)
        self.left_out: tuple[Origin, ...] = tuple(plugins.left_out)
        self.missing: tuple[str, ...] = tuple(plugins.missing)
        self.heavy: tuple[Origin, ...] = tuple(plugins.heavy)
        self.origins: tuple[Origin, ...] = tuple(plugins.origins)
        self._found: dict[Kind, list[Registered]] = {
            kind: [one for one in registered if one.hook == hook] for kind, hook in HOOKS.items()
        }

    def names(self, kind: Kind) -> list[str]:
        """The registered names of a kind, sorted; without those that are named by a path or with a prefix."""
        entries = [one.entry for one in self._found[kind]]
        return sorted({entry.name for entry in entries if not entry.suffixes and not entry.prefix})

    def method_names(self) -> list[str]:
        """The names that `--method` takes, sorted."""
        return sorted({name for kind in METHOD_KINDS for name in self.names(kind)})

    def methods_of_files(self) -> list[str]:
        """The names of the methods that plugins given as files register, in their order."""
        files = {str(path) for path in self.files}
        found = [one for kind in METHOD_KINDS for one in self._found[kind] if one.origin.module in files]
        return [one.entry.name for one in found]

    def has_prefix(self, name: str) -> bool:
        """Whether a model is named so by its entry's prefix."""
        return find_prefixed(name, self._found["model"]) is not None

    def registered(self, kind: Kind) -> list[Registered]:
        """All entries of a kind with their origins, in the order of names."""
        return sorted(self._found[kind], key=lambda one: (one.entry.name, str(one.origin)))

    def entry(self, kind: Kind, name: str, *, where: str = "") -> Entry:
        """The entry of that name. UsageError if there is none, or several distributions have it.

        `where` is the place in a file, or the flag, that the message begins with.
        """
        return self.find(kind, name, where=where).entry

    def find(self, kind: Kind | Literal["method"], name: str, *, where: str = "") -> Registered:
        """The entry of that name with its origin; errors as in `entry`."""
        kinds = METHOD_KINDS if kind == "method" else (kind,)
        called = f"{where}: {kind} {name!r}" if where else f"{kind} {name!r}"
        if kind == "model" and (model := find_prefixed(name, self._found[kind])):
            return model
        distribution, _, own_name = name.rpartition(":")
        found = [
            one
            for one_kind in kinds
            for one in self._found[one_kind]
            if one.entry.name == own_name and (not distribution or one.origin.is_called(distribution))
        ]
        if len(found) > 1:
            origins = " and ".join(one.origin.shown for one in found)
            choices = " or ".join(f"{one.origin.distribution}:{own_name}" for one in found)
            raise UsageError(f"{called} is registered by {origins}; choose one: {choices}")
        if not found and kind in factory.KINDS and factory.is_reference(name) and not self._is_known(distribution):
            return Registered(HOOKS[kind], *factory.find_factory(kind, name, where))
        reader = not found or bool(found[0].entry.suffixes)
        if reader and kind == "dataset" and (data := find_data(name, self._found[kind], where)):
            return data
        if not found:
            raise self._unknown(kind, name, distribution, where)
        if found[0].entry.suffixes:
            raise UsageError(f"{called} is a kind of data; give the path of such a file or folder")
        if found[0].entry.prefix:
            raise UsageError(f"{called} needs a name or a folder: {found[0].entry.prefix}:NAME_OR_FOLDER")
        return found[0]

    def method(self, name: str, *, where: str = "") -> tuple[MethodKind, Entry]:
        """The guess method or estimator of that name, and which of the two it is. Errors as in `entry`."""
        one = self.find("method", name, where=where)
        kind: MethodKind = "estimator" if one.hook == HOOKS["estimator"] else "guess method"
        return kind, one.entry

    def complaints(self) -> list[str]:
        """One line for each plugin that was set aside or is missing: which distribution, why, and the mend."""
        others = dict.fromkeys(one.distribution for one in self.origins if not one.is_called(BUILT_IN_DISTRIBUTION))
        mend = f"to disable it, uninstall it or set {ALLOWED}={','.join(others)}"
        broken = [f"plugin {one.origin.shown} is set aside: {one.cause}; {mend}" for one in self.broken]
        absent = "which is not installed: install it, or leave it out"
        return broken + [f"{ALLOWED} names {name}, {absent}" for name in self.missing]

    def _is_known(self, distribution: str) -> bool:
        """Whether a plugin is called so, in use or not."""
        others = (one.origin for one in self.broken)
        return any(origin.is_called(distribution) for origin in (*self.origins, *self.left_out, *others))

    def _unknown(self, kind: Kind | Literal["method"], name: str, distribution: str, where: str) -> UsageError:
        """The name may be one that a plugin not in use would have registered: say why those are missing."""
        names = self.method_names() if kind == "method" else self.names(kind)
        if distribution and not any(origin.is_called(distribution) for origin in self.origins):
            prefix = f"{where}: " if where else ""
            error = UsageError(f"{prefix}{kind} {name!r} is of the plugin {distribution!r}, which is not in use")
        else:
            error = unknown(kind, name, names, where=where)
        reasons = [f"set aside as broken: {'; '.join(map(str, self.broken))}"] if self.broken else []
        reasons += [f"left out by {ALLOWED}: {', '.join(map(str, self.left_out))}"] if self.left_out else []
        reasons += [f"named by {ALLOWED}, but not installed: {', '.join(self.missing)}"] if self.missing else []
        reasons += ["one of your own is named package.module:factory"] if kind in factory.KINDS else []
        suffixes = sorted({end for one in self._found["dataset"] for end in one.entry.suffixes if end[0] == "."})
        if kind == "dataset":
            reasons.append(f"or by the path of a folder, or of a file {', '.join(suffixes)}")
            reasons += [f"{name} is not there"] if "/" in name and not Path(name).exists() else []
        return UsageError("; ".join([str(error), *reasons])) if reasons else error


@cache
def load_registry(files: tuple[Path, ...] = ()) -> Registry:
    """The registry of this process: built-ins, installed plugins, and those of the files given.

    Args:
        files: plugins that are single files.

    Returns:
        The registry: `entry(kind, name)` and `method(name)` give entries by name, `names(kind)` lists them.

    Raises:
        UsageError: for a file that is no working plugin, as it was asked for. An installed plugin that does not work is
            set aside instead.
    """
    if missing := [str(path) for path in files if not path.exists()]:
        raise UsageError(f"--plugin {' and '.join(missing)} cannot be read: No such file or directory")
    plugins = load_plugins()
    origins = [add_file(plugins, path) for path in files]
    registry = Registry(plugins, files)
    for broken in registry.broken:
        if broken.origin in origins:
            raise UsageError(f"--plugin {broken.origin.module} cannot be used: {broken.cause}")
    return registry
