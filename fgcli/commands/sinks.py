"""`--sink` and `--sink-option`: which metric sinks a run has. Imports no torch."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from pydantic import ValidationError

from fgcli.errors import UsageError, unknown
from fgcli.extend.entry import Entry
from fgcli.extend.explain import first_fault
from fgcli.extend.options import Options
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
        sinks[f"{name} of {one.origin}"] = partial(_make, one.entry, _checked(name, one.entry, given))
    return sinks


def _make(entry: Entry, options: Options) -> Any:
    return entry.load()(options)


def _checked(name: str, entry: Entry, given: Mapping[str, object]) -> Options:
    for key in given:
        if key not in entry.options.model_fields:
            raise unknown(f"option of metric sink {name}", key, entry.options.model_fields, where="--sink-option")
    try:
        return entry.options.model_validate(given)
    except ValidationError as error:
        path, sentence = first_fault(error, given)
        raise UsageError(f"--sink-option {name}{''.join(f'.{step}' for step in path)} {sentence}") from error
