"""What `fgcli train` shows: progress while it works, a table at its end."""

import sys
from typing import IO, Self, TextIO, cast

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fgcli.commands.live_view import LiveView, is_terminal
from fgcli.commands.output import Lossy, number_text, scores
from fgcli.errors import one_line
from fgcli.runs.results import Metrics, MetricsRow, Result
from fgcli.runs.timing import ENOUGH
from fgcli.training.reporter import Plan, Reporter

SPLITS = ("train", "test")
NARROW = 40  # columns, below which the table at the end would be cut
ROOMY = 100  # columns, below which the bar and the loss would leave no room for the scores


class WarningsOnly(Reporter):
    """The reporter of --quiet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def warned(self, message: str) -> None:
        print(_warning(message), file=_lossy(sys.stderr))


class Display(WarningsOnly):
    """A bar with time left, loss and last scores on a terminal; elsewhere a plain line for each evaluation."""

    def __init__(self, *, to_stderr: bool) -> None:
        self._console = Console(file=_lossy(sys.stderr if to_stderr else sys.stdout))
        self._all_on_terminal = is_terminal(sys.stderr) and (to_stderr or is_terminal(sys.stdout))
        steps, left, scores = MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.fields[scores]}")
        self._narrow = steps, left, scores
        loss = TextColumn("{task.fields[loss]}")
        self._roomy = TextColumn("{task.description}"), BarColumn(bar_width=None), steps, left, loss, scores
        self._progress = Progress(console=self._console, auto_refresh=False)
        self._view = LiveView(self._console, self._bar, transient=False)
        self._say = self._view.say
        self._task = TaskID(0)
        self._total_steps = 0

    def __exit__(self, *_: object) -> None:
        self._view.stop()

    def warned(self, message: str) -> None:
        if self._all_on_terminal:
            self._say(_warning(message))
        else:
            super().warned(message)

    def _bar(self) -> RenderableType:
        self._progress.columns = self._narrow if self._console.width < ROOMY else self._roomy
        return self._progress.get_renderable()

    def started(self, plan: Plan) -> None:
        self._total_steps = plan.total_steps
        self._say(f"{plan.method}: {plan.total_steps} steps, {plan.steps_per_epoch} an epoch, in {plan.run_dir}")
        if plan.data:
            self._say(plan.data)
        if plan.first_step:
            self._say(f"goes on after step {plan.first_step}")
        for names, how in _uncovered(plan.coverage.perturbed, plan.coverage.frozen):
            self._say(f"{how}: {names}")
        if plan.coverage.unused:
            self._say(f"not used by the forward: {', '.join(plan.coverage.unused)}")
        for note in plan.coverage.notes:
            self._say(note)
        self._task = self._progress.add_task(
            plan.method, total=plan.total_steps, completed=plan.first_step, loss="", scores=""
        )
        self._view.start()

    def stepped(self, step: int, loss: float) -> None:
        self._progress.update(self._task, completed=step, loss=f"loss {number_text(loss)}")

    def evaluated(self, row: MetricsRow) -> None:
        metrics = row.metrics
        self._progress.update(self._task, scores=scores(metrics))
        if not self._view.is_on:
            self._say(
                f"step {row.step}/{self._total_steps}  epoch {round(row.epoch, 2):g}  {row.wall_s:.1f} s  "
                f"train {_measures(metrics.train_loss, metrics.train_accuracy)}  "
                f"test {_measures(metrics.test_loss, metrics.test_accuracy)}"
            )


def show_result(result: Result) -> None:
    """The table at the end, to standard output; a line for each of its numbers where it would not fit."""
    metrics, recipe = result.metrics, result.recipe
    lower, upper = result.step_ms_quartiles
    spread = f", quartiles {lower:.2f} to {upper:.2f}" if result.steps >= ENOUGH else ""
    facts = [
        ("steps", str(result.steps)),
        ("wall time", f"{result.wall_s:.1f} s"),
        ("time per step", f"{result.step_ms_median:.2f} ms median{spread}"),
        ("peak memory", f"{result.peak_memory_bytes / 2**20:.0f} MiB"),
        ("device", f"{recipe['device']}, threads: {recipe['threads']}"),
        *((how, names) for names, how in _uncovered(result.perturbed, result.frozen)),
    ]

    console = Console(file=_lossy(sys.stdout))
    sizes = [f"{name} {recipe[name]}" for name in ("width", "depth", "k") if recipe[name] is not None]
    if recipe.get("feedback", "none") not in (None, "none"):
        sizes.append(f"feedback {recipe['feedback']}")
    title = [f"{recipe['method']} on {recipe['dataset']}", *sizes, f"seed {recipe['seed']}"]
    console.print(Text(", ".join(title)))
    if console.width < NARROW:
        rows = _rows(metrics).items()
        pairs = [(f"{split} {name}", row[i]) for name, row in rows for i, split in enumerate(SPLITS)]
        for name, value in [*pairs, *facts]:
            console.print(Text(f"{name}: {value}"))
    else:
        grid = Table.grid(padding=(0, 2))
        for name, value in facts:
            grid.add_row(name, Text(value))
        console.print(metrics_table(metrics))
        console.print(grid)
    # Outside the grid: a path that is cut or wrapped cannot be copied.
    console.print(Text(f"run directory  {result.run_dir}"), soft_wrap=True)


def metrics_table(metrics: Metrics) -> Table:
    """Losses, and accuracies where there are any, of both splits."""
    table = Table("", *SPLITS)
    for name, row in _rows(metrics).items():
        table.add_row(name, *row)
    return table


def _rows(metrics: Metrics) -> dict[str, list[str]]:
    accuracies = (metrics.train_accuracy, metrics.test_accuracy)
    rows = {"loss": [number_text(number, 4) for number in (metrics.train_loss, metrics.test_loss)]}
    if None not in accuracies:
        rows = {"accuracy": [f"{number:.4f}" for number in accuracies], **rows}
    left_out = (metrics.train_left_out, metrics.test_left_out)
    return {**rows, "not finite": [*map(str, left_out)]} if any(left_out) else rows


def _measures(loss: float, accuracy: float | None) -> str:
    return f"loss {number_text(loss, 4)}" + ("" if accuracy is None else f" accuracy {accuracy:.3f}")


def _warning(message: str) -> str:
    return f"fg: warning: {one_line(message)}"


def _lossy(stream: TextIO) -> IO[str]:
    lost = "fg: warning: standard output cannot be written; the run goes on without it"
    return cast("IO[str]", Lossy(stream, "" if stream is sys.stderr else lost))


def _uncovered(perturbed: tuple[str, ...], frozen: tuple[str, ...]) -> list[tuple[str, str]]:
    """How the parameters are treated that no site covers: (names, what is done), where there are any."""
    treated = ((perturbed, "trained by weight perturbation"), (frozen, "frozen, not trained"))
    return [(", ".join(names), how) for names, how in treated if names]
