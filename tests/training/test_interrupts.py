"""Signals that stop a run: real ones, in real processes, at a step that is known."""

import hashlib
import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from processes import at_step, fg_process
from tiny_runs import FLAGS, go_on, rows, run, untimed, weights

from fgcli.training.checkpoints import CheckpointStore
from fgcli.training.interrupts import stop_request
from fgcli.training.sinks import SinkReporter


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def steps(path: str) -> list[int]:
    return CheckpointStore(Path(path, "checkpoints"), "").steps()


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_a_checkpoint_at_the_step_and_the_exit_code_of_the_signal(number: signal.Signals, exit_code: int) -> None:
    found, process = fg_process("train", *FLAGS, "--out", "run", prepare=partial(at_step, 7, [number]))
    assert found == exit_code
    assert process.stderr == (
        f"fg: stopped by {number.name} after step 7, with a checkpoint; go on with: fgcli train --resume run\n"
    )
    assert steps("run") == [6, 7]
    whole = run(Path("whole"))
    assert untimed(go_on(Path("run"))) == untimed(whole)
    assert untimed(rows(Path("run"))) == untimed(rows(Path("whole")))
    assert weights(Path("run")) == weights(Path("whole"))


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_after_a_signal_stops_at_once(first: signal.Signals) -> None:
    both = partial(at_step, 7, [first, signal.SIGINT])
    found, process = fg_process("train", *FLAGS, "--out", "run", prepare=both)
    assert found == 130
    assert process.stderr == (
        "fg: interrupted at once, after step 7; go on, from the last checkpoint, with: fgcli train --resume run\n"
    )
    assert steps("run") == [3, 6]
    assert untimed(go_on(Path("run"))) == untimed(run(Path("whole")))


def in_one_call(at: int) -> None:
    """After that step, two signals while one call of C goes on: Python hears of one, and when the call is over."""

    def send() -> None:
        for _ in range(2):
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGINT)

    stepped = SinkReporter.stepped

    def hit(self: SinkReporter, step: int, loss: float) -> None:
        stepped(self, step, loss)
        if step == at:
            threading.Thread(target=send, daemon=True).start()
            hashlib.pbkdf2_hmac("sha256", b"", b"", 100_000_000)

    SinkReporter.stepped = hit


def test_two_ctrl_c_during_one_long_call_stop_at_once() -> None:
    found, process = fg_process("train", *FLAGS, "--out", "run", prepare=partial(in_one_call, 7))
    assert found == 130
    assert process.stderr == "fg: interrupted at once, within a step; `fgcli train --resume` goes on with the run\n"
    assert steps("run") == [3, 6]
    assert untimed(go_on(Path("run"))) == untimed(run(Path("whole")))


def test_the_first_signal_counts_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)
    with stop_request() as request:
        assert request.by is None
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGTERM)
        assert request.by is signal.SIGUSR1
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGUSR1)) == before


def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_request() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.by is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
