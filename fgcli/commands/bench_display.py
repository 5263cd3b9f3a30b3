"""What `fgcli bench` shows: a live table of the trials on a terminal, a plain line for each event elsewhere."""

import time
from collections import deque
from collections.abc import Mapping
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fgcli.bench.run import Failure, Job
from fgcli.commands.output import scores
from fgcli.errors import RunError, one_line
from fgcli.runs.results import MetricsRow

RECENT = 6
"""Finished trials that stay in the live table."""
RUNNING = 20
"""Trials under way that the live table shows."""


class BenchDisplay:
    """Counts trials and shows them; a `Watcher`. One rich Live, on while it is entered."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(highlight=False)
        self._quiet = quiet
        self._total = self._done = self._failed = 0
        self._running: dict[str, tuple[Job, float, int]] = {}
        self._recent: deque[tuple[str, str, str]] = deque(maxlen=RECENT)
        self._live = Live(
            get_renderable=self._table, console=self._console, auto_refresh=True, refresh_per_second=2, transient=True
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._console.print(Text(one_line(line)), soft_wrap=True)

    def expects(self, total: int) -> None:
        """So many trials are to be run from now on."""
        self._total, self._done, self._failed = total, 0, 0

    def started(self, job: Job, attempt: int) -> None:
        self._running[job.name] = (job, time.monotonic(), attempt)
        if not self._live.is_started:
            self.say(f"started {job.name}" + (", once more" if attempt > 1 else ""))

    def finished(self, job: Job) -> None:
        _, began, _ = self._running.pop(job.name)
        self._done += 1
        reached = scores(job.run.read_result().metrics)
        took = f"{time.monotonic() - began:.1f} s"
        self._recent.append((job.name, reached, took))
        if not self._live.is_started:
            self.say(f"finished {job.name}: {reached}, {took} ({self._done} of {self._total})")

    def failed(self, failure: Failure, *, again: bool) -> None:
        name = failure.job.name
        self._running.pop(name, None)
        self._failed += not again
        why = failure.last_lines[-1] if failure.last_lines else f"exit code {failure.exit_code}"
        then = "; it is tried once more" if again else ""
        self.say(f"failed {name} (exit code {failure.exit_code}): {why}{then}")

    def _table(self) -> Table:
        failed = f", {self._failed} failed" if self._failed else ""
        table = Table(title=f"{self._done} of {self._total} trials finished{failed}", title_justify="left")
        for column in ("trial", "reached", "epoch", "time"):
            justify = "right" if column in ("epoch", "time") else "left"
            table.add_column(column, justify=justify, overflow="fold")  # names differ at their ends
        for name, reached, took in self._recent:
            table.add_row(Text(name), reached, "", took, style="dim")
        running = list(self._running.items())  # of a cluster's, most still wait for their turn
        for name, (job, began, attempt) in running[:RUNNING]:
            row = _last_row(job)
            epoch = f"{row.epoch if row else 0:g}/{job.recipe.epochs}"
            state = (scores(row.metrics) if row else "") + (", second attempt" if attempt > 1 else "")
            table.add_row(Text(name), state, epoch, f"{time.monotonic() - began:.0f} s")
        if len(running) > RUNNING:
            table.add_row(f"and {len(running) - RUNNING} more", "", "", "", style="dim")
        return table


def _last_row(job: Job) -> MetricsRow | None:
    """The newest evaluation; None while there is none."""
    try:
        return (job.run.read_metrics() or [None])[-1]
    except RunError:
        return None


def show_failures(failures: Mapping[str, Failure]) -> None:
    """What failed for good, to standard error: exit code, last lines, log."""
    console = Console(stderr=True, highlight=False)
    for name, failure in failures.items():
        console.print(Text(f"fg: trial {name} failed (exit code {failure.exit_code}); its log: {failure.job.log}"))
        for line in failure.last_lines:
            console.print(Text(f"    {one_line(line)}"), soft_wrap=True)
