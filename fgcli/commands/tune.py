"""`fgcli tune`: find a learning rate, by the search that sweeps have. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Annotated

import typer

from fgcli.commands.compare import parse_rates
from fgcli.commands.flags import Jobs
from fgcli.commands.run_flags import RunFlags, with_run_flags
from fgcli.commands.sweep_of_flags import Quiet, keys_of, resolved, run_sweep
from fgcli.errors import RunError, unknown
from fgcli.extend.factory import is_reference
from fgcli.recipe_keys import section_keys
from fgcli.runs.results import METRICS
from fgcli.runs.sweep_directory import SweepDirectory
from fgcli.runs.tuned import read_tuned
from fgcli.shell import command_line
from fgcli.sweep.schema import Tune

RATES = "3e-5,1e-4,3e-4,1e-3,3e-3,1e-2,3e-2"


@with_run_flags(leave_out=("lr", "seed"))
def tune(
    run_flags: RunFlags,
    lrs: Annotated[str, typer.Option("--lrs", help=f"The candidates (default {RATES}).", metavar="X,X,…")] = RATES,
    seeds: Annotated[
        str, typer.Option("--seeds", help="Seeds of the search (default 100); others than those of later runs.")
    ] = "100",
    by: Annotated[
        str, typer.Option("--by", help="The best mean of this wins: train_loss, test_accuracy, …", metavar="NAME")
    ] = Tune.model_fields["by"].default,
    search_epochs: Annotated[
        int | None,
        typer.Option("--search-epochs", help="Epochs of a trial (default those of the run).", metavar="N", min=1),
    ] = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Find a learning rate: a run for each candidate, the best mean over the seeds wins.

    Prints the command that trains with it.
    """
    from fgcli.commands.bench_run import parse_seeds

    if by not in METRICS:
        raise unknown("metric", by, METRICS, where="--by")
    recipe = resolved(run_flags)
    method = {"label": recipe.method, **keys_of(recipe, section_keys("method"))}
    search = {"lr": parse_rates(lrs), "seed": parse_seeds(seeds), "by": by}
    search |= {} if search_epochs is None else {"epochs": search_epochs}
    out = run_sweep(
        run_flags, recipe, f"tune-{recipe.method}", [method], "0", tune=search, search_only=True, jobs=jobs, quiet=quiet
    )
    _, (choice,) = read_tuned(SweepDirectory(out).tuned_file)
    if choice.lr is None:
        raise RunError(f"the runs of all learning rates failed; their logs are in {out}")
    if not quiet:
        _show(choice.candidates, by, choice.lr)
    names = (recipe.dataset, recipe.model, recipe.loss, recipe.lr_schedule)
    own_code = any(map(is_reference, names))
    command = command_line("train", *run_flags.words(), "--lr", choice.lr, plugins=run_flags.plugins, own_code=own_code)
    print(f"go on with: {command}")


def _show(candidates: Mapping[float, float | None], by: str, best: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("lr", METRICS[by].heading)
    for rate, value in sorted(candidates.items(), key=lambda pair: pair[0]):
        table.add_row(f"{rate:g}", "failed" if value is None else f"{value:.4f}", style="bold" if rate == best else "")
    Console().print(table)
