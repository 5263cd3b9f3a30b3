"""`fgcli bench`: the runs of a sweep's recipe, each in a process of its own. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated

import typer

from fgcli.commands.flags import Jobs, PluginFiles


def bench(
    recipe: Annotated[str, typer.Argument(help="A sweep's file, or the name of a shipped one.", metavar="RECIPE")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The sweep's folder; the same again goes on (default runs/NAME).", metavar="DIR"),
    ] = None,
    jobs: Jobs = None,
    threads: Annotated[
        int | None,
        typer.Option("--threads", help="CPU threads of a trial (default the recipe's, or 1).", metavar="N", min=1),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="Only trials of this label or name, with * and ?; repeatable.", metavar="PATTERN"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Run at most N of the missing trials.", metavar="N", min=0)
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="These seeds in place of the recipe's.", metavar="N-N,N,…")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the missing trials and how long they take; write nothing.")
    ] = False,
    timing: Annotated[
        bool, typer.Option("--timing", help="After the trials, measure step times, memory and operations.")
    ] = False,
    executor: Annotated[
        str | None,
        typer.Option("--executor", help="Who runs the trials (default the recipe's, or local).", metavar="NAME"),
    ] = None,
    executor_option: Annotated[
        list[str] | None,
        typer.Option("--executor-option", help="Option of the executor; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    sink: Annotated[
        list[str] | None,
        typer.Option("--sink", help="Send every trial's metrics to this metric sink, too; repeatable.", metavar="NAME"),
    ] = None,
    sink_option: Annotated[
        list[str] | None,
        typer.Option("--sink-option", help="Option of a metric sink; repeatable.", metavar="NAME.KEY=VALUE"),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Return once the trials are submitted, for executors that can.")
    ] = False,
    plugin: PluginFiles = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show warnings and errors only.")] = False,
) -> None:
    """Run the trials of a sweep: methods, widths, seeds, each in a process of its own. Goes on where it was stopped."""
    from fgcli.commands.bench_run import Request, run

    request = Request(
        recipe=recipe,
        out=out,
        jobs=jobs,
        threads=threads,
        only=tuple(only or ()),
        limit=limit,
        seeds=seeds,
        dry_run=dry_run,
        timing=timing,
        executor=executor,
        executor_options=tuple(executor_option or ()),
        sinks=tuple(sink or ()),
        sink_options=tuple(sink_option or ()),
        detach=detach,
        plugins=tuple(path.absolute() for path in plugin or ()),
        quiet=quiet,
    )
    run(request)
