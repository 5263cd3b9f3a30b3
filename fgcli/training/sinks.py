"""Metric sinks: where a run's metrics go beside its own directory. None of them can stop or change a training.

Each sink works in a thread of its own, so that one that hangs holds up nobody; one that raises gets nothing more.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

from fgcli.errors import exception_text
from fgcli.runs.record import as_json
from fgcli.runs.results import MetricsRow, Result
from fgcli.training.reporter import Plan, Reporter

PATIENCE = 60.0
"""Seconds that a run waits at its end for a sink to have written all. MLflow takes 15 s to make its database."""


class MetricSink(Protocol):
    """Constructed with its options; called from one thread, in this order. What it is given is its own to change."""

    def started(self, plan: Plan) -> None:
        """The run begins, or goes on after `plan.first_step`: rows after that step may be sent again.

        Args:
            plan: what is about to be trained, and where it is written.
        """
        ...

    def row(self, row: dict[str, Any]) -> None:
        """A row of metrics.jsonl was written.

        Args:
            row: the fields of `fgcli.runs.results.MetricsRow`, by name; times in seconds.
        """
        ...

    def finished(self, result: dict[str, Any] | None) -> None:
        """The run ended. Called after `started` only.

        Args:
            result: the content of result.json, or None where the run was stopped.
        """
        ...


Sinks = Mapping[str, Callable[[], MetricSink]]
"""What makes each sink, by the name that warnings use."""


class GuardedSink:
    """A sink, made and used in a thread of its own."""

    def __init__(self, name: str, make: Callable[[], MetricSink]) -> None:
        self.name = name
        self.fault: str | None = None
        """What it raised, and where, once it has."""
        self._calls: SimpleQueue[tuple[str, Any] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, args=(make,), name=f"metric sink {name}", daemon=True)
        self._thread.start()

    def send(self, call: str, argument: object) -> None:
        """Have a method of the sink called, some time."""
        self._calls.put((call, deepcopy(argument)))

    def close(self) -> None:
        """Wait for what was sent, for a while."""
        self._calls.put(None)
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self.fault = f"it is still busy {PATIENCE:g} s after the run's end, and is left behind"

    def _work(self, make: Callable[[], MetricSink]) -> None:
        doing = "making it"
        try:
            sink = make()
            while (item := self._calls.get()) is not None:
                doing, argument = item
                getattr(sink, doing)(argument)
        except BaseException as error:  # an interrupt of the user's reaches the main thread alone
            self.fault = f"{doing} raised {exception_text(error)}"


class SinkReporter(Reporter):
    """A reporter that also feeds sinks, and warns once of each that failed."""

    def __init__(self, reporter: Reporter, sinks: Sinks) -> None:
        self._reporter = reporter
        self._sinks = [GuardedSink(name, make) for name, make in sinks.items()]
        self._warned: set[str] = set()

    def started(self, plan: Plan) -> None:
        self._send("started", plan)
        self._reporter.started(plan)

    def stepped(self, step: int, loss: float) -> None:
        self._reporter.stepped(step, loss)

    def evaluated(self, row: MetricsRow) -> None:
        self._send("row", as_json(row))
        self._reporter.evaluated(row)

    def warned(self, message: str) -> None:
        self._reporter.warned(message)

    def finished(self, result: Result | None) -> None:
        """The run's end: say what failed. `result` is None where the run was stopped."""
        self._send("finished", None if result is None else result.as_json())
        for sink in self._sinks:
            sink.close()
            self._warn_once(sink)

    def _send(self, call: str, argument: object) -> None:
        for sink in self._sinks:
            if sink.fault is None:
                sink.send(call, argument)
            self._warn_once(sink)

    def _warn_once(self, sink: GuardedSink) -> None:
        if sink.fault is not None and sink.name not in self._warned:
            self._warned.add(sink.name)
            self._reporter.warned(f"metric sink {sink.name} failed and has not all of this run: {sink.fault}")
