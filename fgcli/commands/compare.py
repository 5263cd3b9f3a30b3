"""`fgcli compare`: train several methods over seeds and report on them, in one line. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fgcli.commands.flags import Jobs
from fgcli.commands.run_flags import RunFlags, with_run_flags
from fgcli.commands.sweep_of_flags import Quiet, resolved, run_sweep, show_report
from fgcli.errors import UsageError, unknown
from fgcli.extend.registry import Registry, load_registry
from fgcli.recipe import parse_assignments, resolve
from fgcli.recipe_keys import section_keys


@with_run_flags(leave_out=(*section_keys("method"), "seed"))
def compare(
    run_flags: RunFlags,
    methods: Annotated[
        str,
        typer.Option("--methods", help="The compared methods, with options if wanted.", metavar="NAME[:KEY=VALUE],…"),
    ],
    seeds: Annotated[str, typer.Option("--seeds", help="The repetitions.", metavar="N-N,N,…")] = "0-2",
    lrs: Annotated[
        str | None, typer.Option("--lrs", help="Search each method's learning rate among these first.", metavar="X,X,…")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Compare with this method (default the last).", metavar="NAME")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Write the report as a page, too.", metavar="FILE")
    ] = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Train several methods over seeds, and report their means with 95 % intervals and paired differences.

    All methods have the same data, model, epochs and seeds. `--methods wperp:k=20,solver=shared,backprop`.
    """
    from fgcli.report.figure_file import check_page

    entries = [_method(text) for text in _split(methods)]
    labels = [entry["label"] for entry in entries]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UsageError(
            f"--methods names {twice[0]} twice; each once, or with options of its own: {twice[0]}:KEY=VALUE"
        )
    if baseline is not None and baseline not in labels:
        raise unknown("method", baseline, labels, where="--baseline")
    registry = load_registry(run_flags.plugins)
    for entry in entries:
        registry.find("method", entry["method"], where="--methods")
        _check(entry, run_flags, registry)
    if html is not None:
        check_page(html)
    if lrs is not None and run_flags.given.get("lr") is not None:
        raise UsageError("--lr and --lrs are both given; give one of them")
    tune = None if lrs is None else {"lr": parse_rates(lrs)}
    recipe = resolved(run_flags)
    out = run_sweep(run_flags, recipe, " and ".join(labels), entries, seeds, tune=tune, jobs=jobs, quiet=quiet)
    if not quiet or html is not None:
        show_report(out, baseline or labels[-1], html)


def _split(text: str) -> list[str]:
    """At commas, but for those between the options of one method."""
    found: list[str] = []
    for part in text.split(","):
        if "=" in part and ":" not in part.partition("=")[0] and found:
            found[-1] += f",{part.strip()}"
        elif part.strip():
            found.append(part.strip())
    if not found:
        raise UsageError(f"--methods is {text!r}; it must name methods: wperp,backprop")
    return found


def _method(text: str) -> dict[str, Any]:
    name, colon, options = text.rpartition(":")
    if not colon or "=" not in options:  # `name` alone, or `distribution:name`
        return {"label": text, "method": text}
    return {"label": text, "method": name, "options": parse_assignments(options.split(","), f"--methods {name}:")}


def _check(entry: dict[str, Any], flags: RunFlags, registry: Registry) -> None:
    """UsageError that says how an option of a method is given here, where `fgcli train` would refuse it."""
    try:
        resolve(flags.source(), flags.overrides() | {key: entry.get(key) for key in ("method", "options")}, registry)
    except UsageError as error:
        raise UsageError(f"--methods {entry['label']}: {error} (options: --methods NAME:KEY=VALUE)") from error


def parse_rates(text: str) -> list[float]:
    """`1e-4,1e-3`. UsageError for anything but different numbers above 0."""
    try:
        rates = [float(part) for part in text.split(",")]
    except ValueError:
        rates = []
    if not rates or not all(0 < rate < float("inf") for rate in rates) or len(set(rates)) != len(rates):
        raise UsageError(f"--lrs is {text!r}; it must be different numbers above 0: 1e-4,3e-4,1e-3")
    return rates
