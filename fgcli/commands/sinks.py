"""`--sink` and `--sink-option`: which metric sinks a run has. Imports no torch."""

from collections.abc import Callable, Iterable
from typing import Any

from fgcli.errors import UsageError
from fgcli.extend.explain import checked_options
from fgcli.extend.registry import Registry
from fgcli.recipe import parse_assignments


def make_sinks(registry: Registry, names: Iterable[str], assignments: Iterable[str]) -> dict[str, Callable[[], Any]]:
    """What makes each sink, by its name and plugin. UsageError for an unknown name or option; nothing is loaded yet."""
    options = {name: dict[str, object]() for name in names}
    for assignment, value in parse_assignments(assignments, "--sink-option").items():
        name, dot, key = assignment.rpartition(".")
        if not dot or name not in options:
            known = f"one of {', '.join(options)}" if options else "given with --sink"
            raise UsageError(f"--sink-option is {assignment}; it must be NAME.KEY=VALUE, and NAME must be {known}")
        options[name][key] = value
    sinks: dict[str, Callable[[], Any]] = {}
    for name, given in options.items():
        one = registry.find("metric sink", name, where="--sink")
        options_of = checked_options(f"metric sink {name}", one.entry.options, given, "--sink-option", f"{name}.")
        sinks[f"{name} of {one.origin.shown}"] = lambda one=one, options=options_of: one.load()(options)
    return sinks
