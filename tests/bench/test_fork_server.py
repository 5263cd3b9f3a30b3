"""Trials that the fork server starts: what new processes would give, each alone. A killed bench: test_processes."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import parent, until
from tiny_runs import FLAGS, untimed, weights

from fgcli.bench.executor import Trial
from fgcli.bench.forked import FORKS, Forked, ForkServer, Starter
from fgcli.bench.local import LocalExecutor
from fgcli.bench.options import LocalOptions
from fgcli.bench.process import environment

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FORKS, reason="trials are new processes here")]

PLUGIN = """
import random

import numpy

from fgcli import Entry, hookimpl

FG_CONTRACT = 2


@hookimpl
def fg_guess_methods():
    return [Entry("drawn", "fgcli.methods.transpose:Transpose", "Its module draws when it is imported.")]


print(random.random(), numpy.random.rand(), flush=True)
"""
LONG = [*FLAGS, "--epochs", "1000000", "--eval-every", "100"]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        yield ForkServer(environment(1))


@pytest.fixture
def executor(server: ForkServer) -> LocalExecutor:
    executor = LocalExecutor(LocalOptions(jobs=2))
    executor._starter._server = server
    return executor


def trial(name: str, *arguments: str, threads: int = 1) -> Trial:
    run, log = Path(name).absolute(), Path(f"{name}.log").absolute()
    command = (sys.executable, "-m", "fgcli", "train", *arguments, "--out", str(run))
    return Trial(name, command, run, log, threads)


def start(server: ForkServer, trial: Trial) -> Forked:
    with trial.log.open("ab") as log:
        return server.start(trial.threads, trial.command[3:], log)


def left(trial: Trial) -> list[Any]:
    """All that a trial leaves, but times and its own name."""
    found: list[Any] = [sorted(str(path.relative_to(trial.run_dir)) for path in trial.run_dir.rglob("*"))]
    for name in ("metrics.jsonl", "diagnostics.jsonl"):
        found.append(untimed([json.loads(line) for line in (trial.run_dir / name).read_text().splitlines()]))
    found.append(untimed(json.loads((trial.run_dir / "result.json").read_text())))
    found.append(json.loads((trial.run_dir / "environment.json").read_text()) | {"command": None})
    return [*found, (trial.run_dir / "recipe.yaml").read_text(), weights(trial.run_dir)]


def test_forked_and_new_processes_leave_the_same_to_the_bit(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*FLAGS, "--threads", "2", "--method", "wperp", "--k", "2", "--diagnostics", "bias"]
    flags += ["--diagnostics-every", "2", "--width", "64"]
    forked, new = trial("forked", *flags, threads=2), trial("new", *flags, threads=2)
    with monkeypatch.context() as patch:
        patch.setattr("fgcli.bench.forked.spawned", None)
        assert [one.exit_code for one in executor.run([forked])] == [0], forked.log.read_text()
    monkeypatch.setattr("fgcli.bench.forked.FORKS", False)
    assert [one.exit_code for one in executor.run([new])] == [0], new.log.read_text()
    assert left(forked) == left(new)


def test_a_trial_has_its_own_threads_group_log_plugins_and_randomness(server: ForkServer) -> None:
    Path("drawing.py").write_text(PLUGIN)  # by its path, as the server's folder is that of an earlier test
    flags = [*FLAGS, "--plugin", str(Path("drawing.py").absolute()), "--method", "drawn", "--max-steps", "1"]
    trials = [trial("a", *flags), trial("b", *flags)]
    processes = [start(server, one) for one in trials]
    assert [os.getpgid(one.pid) for one in processes] == [one.pid for one in processes]
    assert len(os.listdir(f"/proc/{parent(processes[0].pid)}/task")) == 1, "a fork of several threads may hang"
    assert [one.wait() for one in processes] == [0, 0], trials[0].log.read_text()
    drawn = [one.log.read_text().splitlines()[0].split() for one in trials]
    assert drawn[0][0] != drawn[1][0]
    assert drawn[0][1] != drawn[1][1]


def test_a_killed_trial_harms_no_other(server: ForkServer) -> None:
    killed, going = start(server, trial("killed", *LONG)), start(server, done := trial("going", *FLAGS))
    os.kill(killed.pid, signal.SIGKILL)
    assert (killed.wait(), going.wait()) == (-signal.SIGKILL, 0)
    assert (done.run_dir / "result.json").exists()
    assert start(server, trial("refused", "--no-such-flag")).wait() == 2
    assert "no such option" in Path("refused.log").read_text()


def test_what_runs_is_asked_to_end_and_can_go_on(executor: LocalExecutor) -> None:
    """As where Ctrl-C ends the bench."""
    long = trial("long", *LONG)
    outcomes: Any = executor.run([trial("refused", "--no-such-flag"), long])
    assert next(outcomes).exit_code == 2
    until(lambda: (long.run_dir / "metrics.jsonl").exists())
    outcomes.close()
    assert "go on with: fgcli train --resume" in long.log.read_text()


def test_trials_die_with_a_killed_server_and_later_ones_are_new_processes(
    server: ForkServer, executor: LocalExecutor
) -> None:
    def offered() -> Iterator[Trial]:
        yield trial("long", *LONG)
        os.kill(parent(*server._running), signal.SIGKILL)
        yield trial("refused", "--no-such-flag")

    ended = {one.trial.name: one.exit_code for one in executor.run(offered())}
    assert ended == {"long": -signal.SIGKILL, "refused": 2}


def test_a_start_that_is_interrupted_leaves_nothing_to_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where Ray cancels a trial: its process must not be taken for that of the worker's next one."""

    def interrupt(self: ForkServer) -> list[int]:
        raise KeyboardInterrupt

    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    starter = Starter()
    with monkeypatch.context() as patch, Path("interrupted.log").open("ab") as log:
        patch.setattr(ForkServer, "_hear", interrupt)
        with pytest.raises(KeyboardInterrupt):
            starter.start([sys.executable, "-m", "fgcli", "--no-such-flag"], 1, log)
    with Path("next.log").open("ab") as log:
        assert starter.start([sys.executable, "-m", "fgcli", "--version"], 1, log).wait() == 0
    assert Path("next.log").read_text().startswith("fg ")
