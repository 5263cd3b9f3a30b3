import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from processes import alive, until

from fgcli.bench import local
from fgcli.bench.executor import Trial
from fgcli.bench.local import LocalExecutor
from fgcli.bench.options import LocalOptions
from fgcli.errors import UsageError


def trial(folder: Path, name: str, code: str, threads: int = 3) -> Trial:
    return Trial(name, (sys.executable, "-c", code), folder / name, folder / f"{name}.log", threads)


def test_a_failure_and_a_kill_are_outcomes_and_the_others_go_on(tmp_path):
    trials = [
        trial(tmp_path, "fails", "print('so'); raise SystemExit(3)"),
        trial(tmp_path, "killed", "import os; os.kill(os.getpid(), 9)"),
        trial(tmp_path, "works", "import os; print(os.environ['OMP_NUM_THREADS'])"),
    ]
    outcomes = {one.trial.name: one.exit_code for one in LocalExecutor(LocalOptions(jobs=2)).run(trials)}
    assert outcomes == {"fails": 3, "killed": -9, "works": 0}
    assert (tmp_path / "fails.log").read_text() == "so\n"
    assert (tmp_path / "works.log").read_text() == "3\n"


def test_never_more_at_once_than_asked_for_and_taken_one_by_one(tmp_path):
    code = "import os, sys, time, pathlib; p = pathlib.Path(sys.argv[1]); time.sleep(0.1)"
    taken: list[str] = []

    def offered():
        for number in range(4):
            taken.append(f"t{number}")
            yield trial(tmp_path, f"t{number}", code.replace("sys.argv[1]", "'.'"))

    outcomes = LocalExecutor(LocalOptions(jobs=2)).run(offered())
    next(outcomes)
    assert taken == ["t0", "t1"]
    assert len(list(outcomes)) == 3


def test_closing_ends_what_runs_politely_and_then_by_force(tmp_path, monkeypatch):
    monkeypatch.setattr("fgcli.bench.process.GRACE_S", 0.5)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    polite = (
        "import signal, sys, time\nsignal.signal(15, lambda *_: sys.exit('bye'))\nprint(1, flush=True)\ntime.sleep(60)"
    )
    quick = "import time; time.sleep(0.01)"
    trials = [trial(tmp_path, "deaf", deaf), trial(tmp_path, "polite", polite), trial(tmp_path, "quick", quick)]
    started: list[int] = []
    popen = subprocess.Popen

    def spied(*args, **kwargs):
        process = popen(*args, **kwargs)
        started.append(process.pid)
        return process

    monkeypatch.setattr(subprocess, "Popen", spied)
    outcomes = LocalExecutor(LocalOptions(jobs=3)).run(trials)
    assert next(outcomes).trial.name == "quick"
    until(lambda: all((tmp_path / f"{name}.log").read_text() for name in ("deaf", "polite")))
    assert isinstance(outcomes, Generator)
    outcomes.close()
    assert not any(alive(pid) for pid in started)
    assert "bye" in (tmp_path / "polite.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next bench waits for the trial instead")
def test_trials_die_with_a_killed_bench(tmp_path):
    code = f"""
from pathlib import Path
from fgcli.bench.executor import Trial
from fgcli.bench.local import LocalExecutor
from fgcli.bench.options import LocalOptions
code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
trial = Trial("t", ({sys.executable!r}, "-c", code), Path("t"), Path({str(tmp_path / "t.log")!r}), 1)
list(LocalExecutor(LocalOptions()).run([trial]))
"""
    bench = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "t.log"
    until(lambda: log.exists() and log.read_text().endswith("\n"))
    pid = int(log.read_text())
    assert alive(pid)
    os.kill(bench.pid, signal.SIGKILL)
    bench.wait()
    until(lambda: not alive(pid))


def test_a_trial_waits_for_one_that_still_writes_its_log(tmp_path):
    log = tmp_path / "t.log"
    with log.open("ab") as file:
        code = (
            "import fcntl, time; fcntl.flock(1, fcntl.LOCK_EX); print('old', flush=True); time.sleep(0.3); print('end')"
        )
        earlier = subprocess.Popen([sys.executable, "-c", code], stdout=file)
    until(lambda: log.read_text() == "old\n")
    outcomes = list(LocalExecutor(LocalOptions()).run([trial(tmp_path, "t", "print('new')")]))
    assert [one.exit_code for one in outcomes] == [0]
    assert log.read_text() == "old\nend\nnew\n"
    assert earlier.wait() == 0


def test_a_trial_that_hangs_is_killed_and_the_others_go_on(tmp_path):
    trials = [trial(tmp_path, "hangs", "import time; time.sleep(600)"), trial(tmp_path, "works", "")]
    executor = LocalExecutor(LocalOptions(jobs=1, patience=0.2 / 60))
    outcomes = executor.run(trials)
    assert next(outcomes).exit_code == -signal.SIGKILL
    assert (tmp_path / "hangs.log").read_text() == "fg: killed, as it wrote nothing for 0.00333333 minutes\n"
    executor.patience_s = None  # however long the next one takes to start
    assert next(outcomes).exit_code == 0


def test_what_writes_does_not_hang(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr(local.time, "monotonic", lambda: now)
    one = local._Running(trial(tmp_path, "t", ""), None)  # pyright: ignore[reportArgumentType]
    for file in (one.trial.log, one.trial.run_dir / "metrics.jsonl", one.trial.run_dir / "more"):
        now += 60
        assert one.silent_for() == 60
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as writing:
            writing.write("row")
        assert one.silent_for() == 0
    now += 60
    assert one.silent_for() == 60


def test_trials_of_fewer_threads_do_not_crowd_out_those_of_more(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 2)
    process = subprocess.Popen(["true"], start_new_session=True)
    monkeypatch.setattr("fgcli.bench.forked.spawned", lambda *_, **__: process)
    executor = LocalExecutor(LocalOptions())
    assert executor.place(2).at_once == 1
    trials = iter([trial(tmp_path, "one", "", threads=1), trial(tmp_path, "two", "", threads=2)])
    next(executor.run(trials))
    assert next(trials).name == "two", "not started beside the first"


def test_threads_and_jobs_must_fit_the_cores(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 4)
    assert LocalExecutor(LocalOptions()).place(1) == (4, "4 trials at once, 1 thread each, on 4 cores")
    assert LocalExecutor(LocalOptions()).place(3) == (1, "1 trial at once, 3 threads each, on 4 cores")
    assert LocalExecutor(LocalOptions(jobs=2)).place(2).at_once == 2
    needs = "--jobs 3 with 2 threads a trial needs 6 cores, and this machine has 4; give --jobs 2, or fewer --thr"
    with pytest.raises(UsageError, match=needs):
        LocalExecutor(LocalOptions(jobs=3)).place(2)
    with pytest.raises(UsageError, match=r"has 4; give --jobs 4$"):  # no trial takes less than a thread
        LocalExecutor(LocalOptions(jobs=5)).place(1)
    with pytest.raises(UsageError, match=r"^a trial of 5 threads needs 5 cores, and this machine has 4; give fewer"):
        LocalExecutor(LocalOptions()).place(5)
