import threading
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import Listener, Stopper, rows, run, untimed

from fgcli.runs.run_directory import RunDirectory
from fgcli.training import sinks
from fgcli.training.reporter import Plan
from fgcli.training.sinks import SinkReporter


class Sink:
    """Keeps what it is told, and the thread that told it."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.threads: set[int] = set()

    def _keep(self, call: str, argument: Any) -> None:
        self.told.append((call, argument))
        self.threads.add(threading.get_ident())

    def started(self, plan: Plan) -> None:
        self._keep("started", plan)

    def row(self, row: dict[str, Any]) -> None:
        self._keep("row", row)

    def finished(self, result: dict[str, Any] | None) -> None:
        self._keep("finished", result)


class Raising(Sink):
    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def _keep(self, call: str, argument: Any) -> None:
        super()._keep(call, argument)
        if call == self.at:
            raise OSError("no space")


class Leaving(Sink):
    def row(self, row: dict[str, Any]) -> None:
        raise SystemExit(3)


class Changing(Sink):
    def row(self, row: dict[str, Any]) -> None:
        row["train_loss"] = -1.0
        row["step"] = "spoilt"


def train(path: Path, sink: Any, listener: Any = None) -> tuple[Any, list[str]]:
    """A tiny run with one sink; its result, and the warnings."""
    listener = listener or Listener()
    warnings: list[str] = getattr(listener, "warnings", [])
    reporter = SinkReporter(listener, {"mine of dist 1.0": lambda: sink})
    result = None
    try:
        result = run(path, reporter)
    finally:
        reporter.finished(None if result is None else RunDirectory(path).read_result())
    return result, warnings


@pytest.fixture
def plain(tmp_path: Path) -> dict[str, Any]:
    return run(tmp_path / "plain")


def test_a_sink_gets_the_plan_every_row_and_the_result(tmp_path: Path) -> None:
    sink = Sink()
    result, warnings = train(tmp_path / "run", sink)
    (started, plan), *told, finished = sink.told
    assert (started, plan.run_dir, plan.total_steps) == ("started", tmp_path / "run", 12)
    assert told == [("row", row) for row in rows(tmp_path / "run")]
    assert len(told) == 4
    assert finished == ("finished", result)
    assert warnings == []
    assert threading.get_ident() not in sink.threads


def test_a_stopped_run_has_no_result(tmp_path: Path) -> None:
    sink, stopper = Sink(), Stopper(4)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", sink, stopper)
    assert [call for call, _ in sink.told] == ["started", "row", "finished"]
    assert sink.told[-1] == ("finished", None)


@pytest.mark.parametrize(
    ("sink", "fault"),
    [
        (Raising("started"), "started raised OSError: no space"),
        (Raising("row"), "row raised OSError: no space"),
        (Raising("finished"), "finished raised OSError: no space"),
        (Leaving(), "row raised SystemExit: 3"),
        (None, "started raised AttributeError: 'NoneType' object has no attribute 'started'"),
    ],
)
def test_a_sink_that_fails_stops_no_training_and_gets_nothing_more(
    tmp_path: Path, plain: dict[str, Any], sink: Any, fault: str
) -> None:
    result, warnings = train(tmp_path / "run", sink)
    assert untimed(result) == untimed(plain)
    assert warnings[-1] == f"metric sink mine of dist 1.0 failed and has not all of this run: {fault}"
    if isinstance(sink, Raising):
        assert [call for call, _ in sink.told].index(sink.at) == len(sink.told) - 1


def test_a_failure_is_told_once_while_the_run_goes_on(tmp_path: Path) -> None:
    class Patient(Listener):
        def stepped(self, step: int, loss: float) -> None:
            if step == 4:  # the row of step 3 was sent: let the sink fail on it
                for thread in threading.enumerate():
                    if thread.name.startswith("metric sink"):
                        thread.join(5)

    _, warnings = train(tmp_path / "run", Raising("row"), Patient())
    assert warnings == [
        "metric sink mine of dist 1.0 failed and has not all of this run: row raised OSError: no space",
    ]


def test_a_sink_that_cannot_be_made(tmp_path: Path, plain: dict[str, Any]) -> None:
    def fail() -> Any:
        raise ImportError("no tensorboard")

    listener = Listener()
    reporter = SinkReporter(listener, {"mine": fail})
    result = run(tmp_path / "run", reporter)
    reporter.finished(RunDirectory(tmp_path / "run").read_result())
    assert untimed(result) == untimed(plain)
    assert "making it raised ImportError: no tensorboard" in listener.warnings[-1]


def test_a_sink_that_hangs_is_left_behind(tmp_path: Path, plain: dict[str, Any], monkeypatch) -> None:
    monkeypatch.setattr(sinks, "PATIENCE", 0.2)
    hanging = threading.Event()

    class Hanging(Sink):
        def row(self, row: dict[str, Any]) -> None:
            hanging.wait(60)

    result, warnings = train(tmp_path / "run", Hanging())
    assert untimed(result) == untimed(plain)
    assert warnings == [
        "metric sink mine of dist 1.0 failed and has not all of this run: it is still busy 0.2 s after the run's end, "
        "and is left behind"
    ]
    hanging.set()


def test_a_sink_that_changes_what_it_is_given_changes_nothing(tmp_path: Path, plain: dict[str, Any]) -> None:
    result, warnings = train(tmp_path / "run", Changing())
    assert untimed(result) == untimed(plain)
    assert untimed(rows(tmp_path / "run")) == untimed(rows(tmp_path / "plain"))
    assert warnings == []
