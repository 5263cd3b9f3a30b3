"""`--executor slurm` on a real SLURM of two nodes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from light_runs import fg
from processes import alive, parent

from cluster.conftest import BENCH, SWEEP, Reference, held, process_of, results, until
from cluster.slurm_cluster import SlurmCluster

SLURM = [*BENCH, "--out", "s", "--executor", "slurm", "--executor-option", "poll=1"]
BRIEF = [*BENCH, "--out", "brief", "--only", "backprop-seed0", *SLURM[-4:]]
BRIEF += [word for option in ("partition=brief", "time=1", "lead=1") for word in ("--executor-option", option)]
"""SLURM's shortest limit. It looks every half minute, and warns of what ends within half a minute and `lead`."""


def test_a_sweep_outlives_its_bench_its_tasks_and_a_node_and_ends_as_the_local_one(
    slurm: SlurmCluster, hold: Callable[[str], Path], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fgcli.bench.slurm.START_S", 0)
    held_back, brief_held_back = hold("s"), hold("brief")
    assert fg(*BRIEF, "--detach").exit_code == 0
    done = fg(*SLURM, "--detach")
    assert done.exit_code == 0, done.stderr
    assert "s: 12 trials are with SLURM, job " in done.stdout
    refused = fg(*BENCH, "--out", "s")
    assert refused.exit_code == 2
    assert "12 trials were handed to executor slurm (job " in refused.stderr

    # A bench that waits for them, and is killed.
    bench = subprocess.Popen([sys.executable, "-m", "fgcli", *SLURM], stdout=subprocess.PIPE, text=True)
    assert bench.stdout is not None
    assert "s: up to 4 trials at once by SLURM, 1 CPU each" in bench.stdout.readline()
    out = Path("s")
    until(lambda: len(held(out)) == 4)
    bench.kill()
    bench.communicate()

    # Nobody watches while a task is preempted, a training killed, a whole task, and a node dies.
    begun = {run: (run / "environment.json").read_bytes() for run in held(out)}
    on_n1 = {run: pid for run in begun if slurm.node_of(pid := process_of(run)) == "n1"}
    assert len(on_n1) == 3
    slurm.ask("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=exec true")
    until(lambda: not all(map(alive, on_n1.values())))
    first, second = (run for run, pid in on_n1.items() if alive(pid))
    os.kill(on_n1[first], signal.SIGKILL)
    os.kill(parent(on_n1[second]), signal.SIGKILL)
    (preempted,) = {*on_n1} - {first, second}
    assert slurm.kill_node("n2") >= 2  # a trial, and what watches it
    held_back.unlink()

    # Nor while a time limit comes near.
    limited = Path("brief/trials/backprop-seed0")
    until(lambda: "fg: stopped by SIGUSR1 after step 4" in log(limited))
    brief_held_back.unlink()

    done = fg(*SLURM)
    assert done.exit_code == 0, done.stderr + done.stdout
    assert "12 of 12 trials are finished" in done.stdout
    assert results(out) == reference()
    assert not (out / "failed.jsonl").exists()
    assert "fg: stopped by SIGTERM after step 40, with a checkpoint" in log(preempted)
    assert "fg: queued again, as it was killed" in log(first)
    assert "fg: queued again, as the time limit is near" in log(limited)
    for run, environment in begun.items():
        assert (run / "environment.json").read_bytes() == environment, "resumed, not begun again"
    assert list((out / "submitted").iterdir()) == []
    assert fg(*BENCH, "--out", "s").exit_code == 0  # nothing is missing
    assert fg(*BRIEF).exit_code == 0
    assert results(Path("brief")) == {"backprop-seed0": reference()["backprop-seed0"]}


def test_a_task_trains_a_trial_by_two_processes_and_has_their_cpus(slurm: SlurmCluster) -> None:
    sweep = SWEEP.replace("base:", "processes: 2\nbase:").replace("16", "2").replace("[0, 1, 2, 3, 4, 5]", "[0]")
    Path("two.yaml").write_text(sweep)
    done = fg("bench", "two.yaml", "--out", "two", "--only", "backprop", "--executor", "slurm")
    assert done.exit_code == 0, done.stderr + Path("two/logs/backprop-seed0.log").read_text()
    assert "by SLURM, 2 CPUs each" in done.stdout
    assert json.loads(Path("two/trials/backprop-seed0/result.json").read_text())["processes"] == 2
    jobs = slurm.ask("squeue", "-h", "-t", "all", "-o", "%j %C").splitlines()
    assert [job.split()[1] for job in jobs if "two" in job.split()[0]] == ["2"]


def log(run: Path) -> str:
    return (run.parents[1] / "logs" / f"{run.name}.log").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["partition=nope"], "--executor slurm: there is no partition nope; known partitions: brief, main, urgent"),
        (
            ["time=2"],
            "a time limit of 120 s is too short: a trial writes a checkpoint 120 s before it (option lead)",
        ),
        (
            ["partition=brief", "time=30:00:00"],
            "time is 30:00:00, above the partition's longest time limit; give time=1440 or less",
        ),
        (["gres=gpu:1"], "--gres=gpu:1 --signal=B:USR1@120 --requeue --open-mode=append --export=ALL is refused: "),
        (["jobs=5"], "--jobs 5 with 1 thread a trial needs 5 cores, and the partition has 4; give --jobs 4"),
    ],
)
def test_refused_before_anything_is_submitted(slurm: SlurmCluster, options: list[str], message: str) -> None:
    flags = [part for option in options for part in ("--executor-option", option)]
    done = fg("bench", "sweep.yaml", "--out", "refused", "--executor", "slurm", *flags)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("refused").exists()
