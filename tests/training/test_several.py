"""`fgcli train --processes`: a run in several processes, the loss of one of them, and what is refused."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import alive, until
from tiny_runs import fg, run, tiny_recipe

from fgcli.cores import cores, refuse_crowded
from fgcli.errors import UsageError
from fgcli.runs.meeting import Meeting, Rank
from fgcli.training.several import joining, leave

PATIENCE = 600  # seconds, on a machine that does much else
FLAGS = ["train", "--dataset", "digits", "--width", "8", "--method", "wt", "--feedback", "direct", "--lr", "0.03"]
FLAGS += [
    "--batch-size",
    "500",
    "--epochs",
    "100",
    "--eval-every",
    "10",
    "--threads",
    "1",
    "--device",
    "cpu",
    "--quiet",
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")


def started(*arguments: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "fgcli", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for(happened: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.005)


def children(process: "subprocess.Popen[str]") -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def child(process: "subprocess.Popen[str]", rank: int) -> int:
    """The process id of a rank."""
    for pid in children(process):
        if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            return pid
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slow
@linux
@pytest.mark.skipif(cores() < 2, reason="two processes take two cores")
def test_a_killed_process_is_named_and_the_run_goes_on_to_the_same_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = Path("two") / "metrics.jsonl"
    process = started(*FLAGS, "--processes", "2", "--out", "two")
    wait_for(metrics.exists, process)
    os.kill(child(process, 1), signal.SIGKILL)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGKILL
    assert stderr == (
        "fg: process 1 of the 2 was killed by SIGKILL; the run has ended with it; its checkpoints stand, go on with: "
        "fgcli train --resume two --processes 2\n"
    )
    resume = ["train", "--resume", "two", "--processes", "2", "--quiet"]
    process = started(*resume)
    wait_for(lambda: len(children(process)) == 2, process)
    ranks = children(process)
    process.kill()
    process.communicate()
    until(lambda: not any(map(alive, ranks)))
    process = started(*resume)
    _, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr) == (0, "")
    process = started(*FLAGS, "--processes", "2", "--out", "whole")
    _, stderr = process.communicate(timeout=PATIENCE)
    assert (process.returncode, stderr) == (0, "")
    assert fg(*FLAGS, "--out", "one").exit_code == 0
    two, whole, one = (json.loads((Path(name) / "result.json").read_text()) for name in ("two", "whole", "one"))
    assert two["steps"] == whole["steps"] == one["steps"] == 300
    assert two["train_loss"] == whole["train_loss"]  # the interruptions change no bit
    assert one["train_loss"] < 0.1  # it has learned
    # Sums in another order differ by rounding, which training enlarges: one process is compared early.
    first = [json.loads((Path(name) / "metrics.jsonl").read_text().splitlines()[0]) for name in ("two", "one")]
    assert first[0]["step"] == first[1]["step"] == 30
    assert first[0]["train_loss"] == pytest.approx(first[1]["train_loss"], rel=1e-3)
    assert two["processes"] == 2
    assert "processes" not in one
    weights = 64 * 8 + 2 * 8 * 8 + 8 * 10
    learned = (3 * 8 * 10) - (8 * 10)  # A of the hidden layers, the last one's way being exact
    assert two["sent_bytes_per_step"] == 4 * (weights + learned) + 8
    assert json.loads((Path("two") / "environment.json").read_text())["processes"] == 2


@linux
@pytest.mark.skipif(cores() < 2, reason="two processes take two cores")
def test_a_stopped_run_says_how_many_processes_go_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process = started(*FLAGS, "--processes", "2", "--out", "two")
    wait_for((Path("two") / "metrics.jsonl").exists, process)
    process.terminate()
    _, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 128 + signal.SIGTERM
    assert stderr.endswith("with a checkpoint; go on with: fgcli train --resume two --processes 2\n")


@linux
def test_a_group_that_is_left_has_no_threads_which_could_abort_python_as_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of_gloo() -> list[str]:
        names: list[str] = []
        for file in Path("/proc/self/task").glob("*/comm"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                names.append(file.read_text())
        return [name for name in names if "gloo" in name]

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    processes = joining(Rank(0, 1, 0, 1, Meeting(tmp_path)))(tiny_recipe())
    assert (processes.size, processes.rank) == (1, 0)
    assert of_gloo()
    leave()
    until(lambda: not of_gloo())  # threads that were waited for stand there for a moment


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (
            ["--processes", "0"],
            "fg: invalid value for '--processes': Input should be greater than or equal to 1 (given: '0')",
        ),
        (
            ["--processes", "33", "--batch-size", "32"],
            "--processes is 33; it must be at most 32, the samples of a batch",
        ),
        (["--processes", "5"], "--processes is 5, with 1 thread each, and there are 4 cores; give --processes 4!"),
        (["--processes", "4", "--threads", "2"], "with 2 threads each, and there are 4 cores; give --processes 2, or"),
        (["--processes", "3", "--threads", "2"], "give --processes 2, or --threads 1!"),
        (["--processes", "5", "--threads", "2"], "give --processes 2!"),
        (["--processes", "2", "--threads", "9"], "give --processes 1, or --threads 2!"),
        (["--processes", "2", "--seeds", "0-1"], "--seeds and --processes are both given"),
    ],
)
def test_too_many_processes_are_refused_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fgcli.cores.cores", lambda: 4)
    result = fg("train", "--dataset", "digits", "--out", "run", *flags)
    assert result.exit_code == 2
    (said,) = result.stderr.splitlines()
    assert line in f"{said}!"  # which ends here
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"batch_size": 1}, "it must be at most 1, the samples of a batch"),
        ({"micro_batch": 8}, "--processes is 2 and --micro-batch 8; leave --micro-batch out"),
        ({"threads": 2}, "--nproc-per-node is 2, with 2 threads each, and there are 3 cores; give --nproc-per-node 1"),
    ],
)
def test_a_process_of_torchrun_refuses_the_same(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, int], line: str
) -> None:
    monkeypatch.setattr("fgcli.cores.cores", lambda: 3)
    with pytest.raises(UsageError, match=line):
        joining(Rank(0, 2, 0, 2, None))(tiny_recipe(**changes))


def test_a_process_alone_may_have_more_threads_than_there_are_cores() -> None:
    refuse_crowded("--nproc-per-node", 1, cores() + 1)


def test_a_rank_is_known_from_torchrun_and_from_the_launcher(tmp_path: Path) -> None:
    assert Rank.of({}) is None
    assert Rank.of({"RANK": "1", "WORLD_SIZE": "2"}) is None  # of something else
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert Rank.of(torchrun | {"MASTER_ADDR": "host", "MASTER_PORT": "1"}) == Rank(3, 4, 1, 2, None)
    meeting = Meeting(tmp_path)
    assert Rank.of(meeting.variables(1, 2)) == Rank(1, 2, 1, 2, meeting)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"RANK": "a"}, "RANK is 'a' and WORLD_SIZE '2'"),
        ({"RANK": "2"}, "RANK is '2' and WORLD_SIZE '2'"),
        ({"RANK": "-1"}, "RANK is '-1' and WORLD_SIZE '2'"),
        ({"WORLD_SIZE": "1.5"}, "RANK is '1' and WORLD_SIZE '1.5'"),
        ({"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"}, "LOCAL_RANK is '1' and LOCAL_WORLD_SIZE '1'"),
    ],
)
def test_what_can_be_no_rank_is_refused(changes: dict[str, str], said: str) -> None:
    torchrun = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "host", "MASTER_PORT": "1"}
    with pytest.raises(UsageError, match=f"^{said} in the environment; they must be whole numbers, the first below"):
        Rank.of(torchrun | changes)


def test_a_run_in_one_process_says_nothing_of_processes(tmp_path: Path) -> None:
    assert "processes" not in run(tmp_path / "run")
