"""`fgcli bench --dry-run`: the trials that are missing, and about how long they take. Imports no torch."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fgcli.bench.executor import Placement
from fgcli.bench.measuring import Estimate, Trials, estimate


def show_estimate(search: Trials, trials: Trials, placement: Placement | None) -> None:
    """A line a missing trial, and the sum. The estimate is of an idle machine."""
    table = Table()
    for column in ("missing trial", "about", "from"):
        table.add_column(column, justify="right" if column == "about" else "left")
    known: list[float] = []
    count = 0
    for some, prefix in ((search, "tuning-"), (trials, "")):
        estimates = estimate(some)
        for trial, job in some:
            if job.run.is_finished():
                continue
            one: Estimate = estimates[trial.group]
            said = "unknown" if one.seconds is None else words(one.seconds)
            table.add_row(Text(prefix + trial.name), said, Text(one.source))
            known += [] if one.seconds is None else [one.seconds]
            count += 1
    console = Console(highlight=False)
    if count:
        console.print(table)
    console.print(_sum(count, len(search) + len(trials), known, placement), soft_wrap=True)


def words(seconds: float) -> str:
    """A duration to two figures or so: `42 s`, `3.5 min`, `1.2 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _sum(count: int, planned: int, known: list[float], placement: Placement | None) -> str:
    if not count:
        return f"nothing is missing: all {planned} trials are finished"
    total = sum(known)
    line = f"{count} of {planned} trials are missing: about {words(total)} of computing"
    if len(known) < count:
        line += f" without the {count - len(known)} of unknown time"
    if placement is not None and placement.at_once > 1:
        line += f", {words(total / placement.at_once)} with {placement.said}"
    return f"{line}; on a machine with other work it takes longer"
