"""What `fgcli bench` shows: a live table of the trials on a terminal, a plain line for each event elsewhere."""

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Self

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from fgcli.bench.executor import Placement
from fgcli.bench.measuring import Estimate, Trials, estimate
from fgcli.bench.run import Failure, Job
from fgcli.bench.tuning import without_lr
from fgcli.commands.live_view import LiveView
from fgcli.commands.output import number_text, pair, scores
from fgcli.errors import RunError, one_line
from fgcli.report.sparkline import shortened
from fgcli.runs.results import Metrics, MetricsRow

RECENT = 6
"""Finished trials that stay in the live table."""
FRAME_LINES = 8
"""Of the live table, beside the trials. There is no frame and no heading where they would leave little room."""
BARE_LINES = 3
"""The same without a frame: the counts, how many more are under way, and the cursor's."""


class _Name:
    """The name of a trial on one line, without its middle where it is too long: names differ at their ends."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield Text(shortened(self._name, options.max_width), no_wrap=True)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(9, len(self._name)), len(self._name))


class _Row(NamedTuple):
    name: str
    metrics: Metrics | None
    epoch: str
    took: str


class BenchDisplay:
    """Counts trials and shows them; a `Watcher`. The table is drawn while it is entered."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(highlight=False)
        self._quiet = quiet
        self._total = self._done = self._failed = 0
        self._running: dict[str, tuple[Job, float, int]] = {}
        self._recent: deque[tuple[str, Metrics, str]] = deque(maxlen=RECENT)
        self._view = LiveView(self._console, self.table, transient=True)

    def __enter__(self) -> Self:
        if not self._quiet:
            self._view.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._view.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self._view.say(one_line(line))

    def expects(self, total: int) -> None:
        """So many trials are to be run from now on."""
        self._total, self._done, self._failed = total, 0, 0

    def started(self, job: Job, attempt: int) -> None:
        self._running[job.name] = (job, time.monotonic(), attempt)
        if not self._view.is_on:
            self.say(f"started {job.name}" + (", once more" if attempt > 1 else ""))

    def finished(self, job: Job) -> None:
        _, began, _ = self._running.pop(job.name)
        self._done += 1
        metrics = job.run.read_result().metrics
        took = f"{time.monotonic() - began:.1f} s"
        self._recent.append((job.name, metrics, took))
        if not self._view.is_on:
            self.say(f"finished {job.name}: {scores(metrics)}, {took} ({self._done} of {self._total})")

    def failed(self, failure: Failure, *, again: bool) -> None:
        name = failure.job.name
        self._running.pop(name, None)
        self._failed += not again
        why = failure.last_lines[-1] if failure.last_lines else f"exit code {failure.exit_code}"
        then = "; it is tried once more" if again else ""
        self.say(f"failed {name} (exit code {failure.exit_code}): {why}{then}")

    def table(self) -> RenderableType:
        """What is under way, and the last that have finished, as wide and high as the terminal allows."""
        failed = f", {self._failed} failed" if self._failed else ""
        running = list(self._running.items())  # of a cluster's, most still wait for their turn
        framed = self._console.height >= FRAME_LINES + RECENT
        lines = self._console.height - (FRAME_LINES if framed else BARE_LINES)
        room = max(1, lines - RECENT, lines // 2)
        ended = list(self._recent)  # a copy, as trials end meanwhile
        ended = ended[max(0, len(ended) - max(0, lines - min(room, len(running)))) :]
        rows = [_Row(name, metrics, "", took) for name, metrics, took in ended]
        for name, (job, began, attempt) in running[:room]:
            last = _last_row(job)
            epoch = f"{round(last.epoch, 2) if last else 0:g}/{job.recipe.epochs}"
            epoch += f", try {attempt}" if attempt > 1 else ""
            rows.append(_Row(name, last and last.metrics, epoch, f"{time.monotonic() - began:.0f} s"))
        pairs = [row.metrics and pair(row.metrics) for row in rows]
        kinds = " or ".join(sorted({one.kind for one in pairs if one}))
        table = Table() if framed else Table(box=None, show_header=False)
        table.add_column("trial")
        for column in (f"train / test\n{kinds}", "epoch", "time"):
            table.add_column(column, justify="right", no_wrap=True)
        for number, (row, one) in enumerate(zip(rows, pairs, strict=True)):
            reached = f"{number_text(one.train)} / {number_text(one.test)}" if one else ""
            style = "dim" if number < len(ended) else None
            table.add_row(_Name(row.name), reached, row.epoch, row.took, style=style)
        if len(running) > room and self._console.height > BARE_LINES:
            table.add_row(f"and {len(running) - room} more", style="dim")
        counts = f"{self._done} of {self._total} trials finished{failed}, {len(running)} under way"
        title = Text(counts, "table.title", no_wrap=True, overflow="ellipsis")
        return Group(title, table)


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
        said = f"fg: trial {name} failed (exit code {failure.exit_code}); its log: {failure.job.log}"
        for line in (said, *(f"    {one_line(line)}" for line in failure.last_lines)):
            console.print(Text(line), soft_wrap=True)


def show_estimate(search: Trials, trials: Trials, placement: Placement | None) -> None:
    """What `--dry-run` says: a line a missing trial, and the sum. The estimate is of an idle machine."""
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
            one: Estimate = estimates[without_lr(trial)]
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
