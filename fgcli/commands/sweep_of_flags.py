"""Sweeps without a recipe's file: of the flags of `fgcli train`, over seeds, methods and learning rates. No torch."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from fgcli.commands.run_flags import RunFlags
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.recipe import Source, resolve
from fgcli.recipe_keys import Recipe, section_keys
from fgcli.runs.run_directory import slug
from fgcli.runs.sweep_directory import SweepDirectory

Quiet = Annotated[bool, typer.Option("--quiet", help="Show warnings and errors only.", rich_help_panel="Output")]


def run_seeds(flags: RunFlags, seeds: str, *, quiet: bool) -> None:
    """A run for each seed, and the report. UsageError before anything is written."""
    if flags.given.get("seed") is not None:
        raise UsageError("--seed and --seeds are both given; give one of them")
    recipe = resolved(flags)
    method = {"label": recipe.method, **keys_of(recipe, section_keys("method"))}
    out = run_sweep(flags, recipe, f"{recipe.method}-seeds", [method], seeds, quiet=quiet)
    if not quiet:
        show_report(out)


def resolved(flags: RunFlags) -> Recipe:
    """What the flags say, checked as `fgcli train` does."""
    return resolve(flags.source(), flags.overrides(), load_registry(flags.plugins))


def keys_of(recipe: Recipe, keys: Sequence[str]) -> dict[str, Any]:
    """Keys of a recipe that have a value, as they stand in one."""
    return {key: value for key, value in recipe.model_dump(mode="json").items() if key in keys and value is not None}


def run_sweep(
    flags: RunFlags, recipe: Recipe, label: str, methods: Sequence[Mapping[str, Any]], seeds: str,
    *, tune: Mapping[str, Any] | None = None, search_only: bool = False, jobs: int | None = None, quiet: bool = False,
) -> Path:  # fmt: skip
    """Run the methods over the seeds, with all else as the recipe says; the sweep's folder.

    Goes on where the folder holds the same sweep already. UsageError for what would stop a trial at its start.
    """
    from fgcli.commands.bench_run import Request, parse_seeds, run

    left_out = {*section_keys("method"), "seed", *(["lr"] if tune else [])}
    base = keys_of(recipe, [key for key in Recipe.model_fields if key not in left_out])
    if recipe.threads is None:
        base.pop("threads", None)
    grid = {"methods": [dict(one) for one in methods], "seed": parse_seeds(seeds)}
    data = {"title": label, "base": base, "grid": grid, **({"tune": dict(tune)} if tune else {})}
    out = flags.out or Path("runs") / f"{slug(label)}-{datetime.now():%Y%m%d-%H%M%S}"
    file = SweepDirectory(out).sweep_file
    plugins = tuple(path.absolute() for path in flags.plugins)
    source = Source("the flags", data)
    run(Request(str(file), source, search_only, out=out, jobs=jobs, plugins=plugins, quiet=quiet))
    return out


def show_report(out: Path, baseline: str | None = None, html: Path | None = None) -> None:
    """The report of a sweep's folder, to the terminal, and as a page where a file is named."""
    from fgcli.commands.report import write
    from fgcli.report.compose import compose
    from fgcli.report.terminal import show

    document = compose([out], baseline)
    show(document)
    for line in write(document, html, None):
        print(line)
