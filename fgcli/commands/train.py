"""`fgcli train`: one run, from flags and a recipe to a run directory."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgcli.commands.run_flags import RunFlags, with_run_flags
from fgcli.errors import UsageError
from fgcli.extend.registry import Registry, load_registry
from fgcli.files import to_json
from fgcli.recipe import Source, read_recipe, resolve
from fgcli.recipe_keys import LENGTH, Recipe
from fgcli.runs.meeting import GONE, Meeting, Rank

if TYPE_CHECKING:  # these import torch
    from fgcli.runs.results import Result
    from fgcli.training.loop import Training
    from fgcli.training.reporter import Reporter
    from fgcli.training.sinks import Sinks


def _output(flag: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(flag, help=help, metavar=metavar, rich_help_panel="Output")


@with_run_flags()
def train(
    run_flags: RunFlags,
    resume: Annotated[
        Path | None,
        _output("--resume", "Go on with the run in this directory; a finished one needs more --epochs.", "DIR"),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes",
            help="Train in this many processes of this machine.",
            metavar="N",
            min=1,
            rich_help_panel="Device",
        ),
    ] = None,
    seeds: Annotated[
        str | None, _output("--seeds", "A run for each of these seeds, and a table with intervals.", "N-N,N,…")
    ] = None,
    sink: Annotated[
        list[str] | None, _output("--sink", "Send metrics to this metric sink, too; repeatable.", "NAME")
    ] = None,
    sink_option: Annotated[
        list[str] | None, _output("--sink-option", "Option of a metric sink; repeatable.", "NAME.KEY=VALUE")
    ] = None,
    json: Annotated[bool, _output("--json", "Print result.json, and nothing else, to standard output.")] = False,
    quiet: Annotated[bool, _output("--quiet", "Show warnings and errors only.")] = False,
) -> None:
    """Train a network by a gradient estimator."""
    from fgcli.commands.sinks import make_sinks

    if seeds is not None:
        others = {
            "--processes": processes,
            "--resume": resume,
            "--sink": sink,
            "--sink-option": sink_option,
            "--json": json or None,
        }
        if given := [name for name, value in others.items() if value is not None]:
            raise UsageError(f"--seeds and {given[0]} are both given; leave out {given[0]}, or give one --seed")
        from fgcli.commands.sweep_of_flags import run_seeds

        run_seeds(run_flags, seeds, quiet=quiet)
        return
    if run_flags.out is not None and resume is not None:
        raise UsageError("--out and --resume are both given; --resume goes on in its own directory")
    overrides = run_flags.overrides()
    registry = load_registry(run_flags.plugins)
    sinks = make_sinks(registry, sink or [], sink_option or [])
    rank = Rank.of(os.environ)
    if rank is not None and processes not in (None, rank.size):
        raise UsageError(f"--processes is {processes}, and torchrun has started {rank.size}; leave it out")
    source, out, recipe = run_flags.source(), run_flags.out, None
    if rank is None or rank.rank == 0:  # another finds what the first has made
        recipe = _recipe_of(source, overrides, out, resume, registry)
        if rank is None and processes is not None and processes > 1:
            from fgcli.commands.launch import launch

            raise typer.Exit(launch(processes, recipe.threads, recipe.batch_size))
    from fgcli.training import several, start

    join = several.alone if rank is None else several.joining(rank)
    if resume is None:
        make = partial(start.begin, recipe or resolve(source, overrides, registry), out, registry, join=join)
    else:
        make = partial(start.resume, resume, source, overrides, registry, join=join)
    if rank is None or rank.size == 1:
        _train(make, sinks, json=json, quiet=quiet)
    else:
        _train_together(rank, make, sinks, json=json, quiet=quiet)


def _recipe_of(
    source: Source | None, overrides: dict[str, object], out: Path | None, resume: Path | None, registry: Registry
) -> Recipe:
    """What shall be trained. What can be refused before torch is loaded, which takes seconds, is refused here."""
    from fgcli.runs.missing_plugins import naming_missing_plugins
    from fgcli.runs.run_directory import RunDirectory, check_free, check_resumable

    if resume is None:
        if out is not None:
            check_free(out)
        return resolve(source, overrides, registry)
    check_resumable(resume, longer=any(overrides.get(key) is not None for key in LENGTH))
    run = RunDirectory(resume)
    of_run = read_recipe(run.recipe_file)
    # Flags are held against the run's recipe where it goes on, with what they may be.
    threads = {key: one for key, one in overrides.items() if key == "threads"}
    with naming_missing_plugins([(run, of_run.data)], registry):
        return resolve(of_run, threads, registry) if source is None else resolve(source, overrides, registry)


def _train_together(
    rank: Rank, make: "Callable[[Reporter], Training]", sinks: "Sinks", *, json: bool, quiet: bool
) -> None:
    """This process's part of a run in several. Only the first shows and writes anything."""
    from fgcli.gradient.errors import ProcessGone
    from fgcli.training.reporter import Reporter
    from fgcli.training.several import PeerLost, leave

    try:
        if rank.rank:
            make(Reporter()).follow()
        else:
            _train(make, sinks, json=json, quiet=quiet, meeting=rank.meeting)
    except (PeerLost, ProcessGone) as gone:
        # fg's launcher knows which process it was; under torchrun, which names it too, the first one speaks.
        if rank.meeting is not None or rank.rank:
            raise typer.Exit(GONE) from gone
        raise PeerLost(str(gone)) from gone
    finally:
        leave()


def _train(
    make: "Callable[[Reporter], Training]", sinks: "Sinks", *, json: bool, quiet: bool, meeting: Meeting | None = None
) -> None:
    from fgcli.commands.display import Display, WarningsOnly, show_result
    from fgcli.training.interrupts import Interrupted
    from fgcli.training.sinks import SinkReporter

    result: Result | None = None
    # What a plugin prints goes to standard error where standard output is for JSON alone.
    printed = redirect_stdout(sys.stderr) if json else nullcontext()
    with printed, WarningsOnly() if quiet else Display(to_stderr=json) as display:
        training = make(display)
        if meeting is not None:
            meeting.say_resume_command(training.run_directory.resume_command)
        training.reporter = reporter = SinkReporter(display, sinks)
        try:
            result = training.run()
        except KeyboardInterrupt as interrupt:
            raise Interrupted(
                f"interrupted at once, after step {training.step}; go on, from the last checkpoint, with: "
                f"{training.run_directory.resume_command}",
                signal.SIGINT,
            ) from interrupt
        finally:
            reporter.finished(result)
    if result is None or (quiet and not json):
        return
    if json:
        print(to_json(result.as_json()), flush=True)
    else:
        show_result(result)
