"""`fgcli report --watch`: the report again and again, while runs are under way."""

import time
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fgcli.errors import UsageError, one_line
from fgcli.report.document import Document
from fgcli.report.sparkline import sparkline
from fgcli.report.terminal import problem_lines, show, shown
from fgcli.report.trials import State, Trial

SECONDS = 2.0  # between two looks
RUNNING = 8  # unfinished runs that are shown one by one


def keep_watching(compose: Callable[[], Document], pause: Callable[[float], None] = time.sleep) -> None:
    """Show the report until nothing is missing or unfinished, or Ctrl-C; then it stays on the screen as it is.

    UsageError where there is no terminal.
    """
    console = Console()
    if not console.is_terminal:
        raise UsageError("--watch needs a terminal; without it the report is printed once")
    document = compose()
    try:
        with Live(_view(document), console=console, screen=True, auto_refresh=False) as live:
            while any(trial.state in (State.MISSING, State.RUNNING) for trial in document.trials):
                live.update(_view(document), refresh=True)
                pause(SECONDS)
                document = compose()
    except KeyboardInterrupt:
        pass
    show(document, console)


def _view(document: Document) -> RenderableType:
    return Group(*_progress(document.trials), Text(""), shown(document), *problem_lines(document))


def _progress(trials: Sequence[Trial]) -> Iterator[Text]:
    counts = {state: sum(trial.state is state for trial in trials) for state in State}
    yield Text(", ".join(f"{count} {state.value}" for state, count in counts.items() if count), style="bold")
    running = [trial for trial in trials if trial.state is State.RUNNING and trial.run]
    for trial in running[:RUNNING]:
        metrics = [row.metrics for row in trial.run.metrics] if trial.run else []
        numbers = [one.test_loss if one.test_accuracy is None else one.test_accuracy for one in metrics]
        last = f"{numbers[-1]:.3f}" if numbers else ""
        yield Text(f"  {sparkline(numbers)} {last}  {one_line(trial.name)}", no_wrap=True, overflow="ellipsis")
    if len(running) > RUNNING:
        yield Text(f"  and {len(running) - RUNNING} more")
