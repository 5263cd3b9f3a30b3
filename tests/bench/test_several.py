"""A sweep whose runs are trained by several processes each."""

from pathlib import Path

import pytest
from tiny_runs import fg

from fgcli.bench.run import Job
from fgcli.recipe_keys import Recipe
from fgcli.runs.run_directory import RunDirectory


def sweep(processes: int, name: str = "sweep.yaml") -> None:
    text = "base: {dataset: digits, batch_size: 32, device: cpu}\ngrid: {methods: [backprop]}\n"
    Path(name).write_text(f"{text}processes: {processes}\n")


@pytest.mark.parametrize(
    ("processes", "flags", "line"),
    [
        (
            2,
            ["--jobs", "2"],
            "fg: --jobs 2 with 2 threads a trial needs 4 cores, and this machine has 3; give --jobs 1, or",
        ),
        (
            2,
            ["--threads", "2"],
            "fg: a trial of 4 threads needs 4 cores, and this machine has 3; give fewer --threads, or fewer proc",
        ),
        (33, [], "fg: sweep.yaml:3:12: processes is 33; it must be at most 32, the samples of a batch"),
        (2, ["--timing"], "fg: sweep.yaml:3:12: processes is 2, and --timing measures one process; leave one of"),
        (0, [], "fg: sweep.yaml:3:12: processes is 0; it must be at least 1"),
    ],
)
def test_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, processes: int, flags: list[str], line: str
) -> None:
    monkeypatch.setattr("fgcli.bench.local.cores", lambda: 3)
    sweep(processes)
    done = fg("bench", "sweep.yaml", "--out", "d", *flags)
    assert (done.exit_code, done.stderr.count("\n"), Path("d").exists()) == (2, 1, False)
    assert done.stderr.startswith(line), done.stderr


def test_a_sweep_goes_on_with_as_many() -> None:
    for number in (1, 2):
        sweep(number)
        done = fg("bench", "sweep.yaml", "--out", "d", "--limit", "0", "--jobs", "1")
    assert (done.exit_code, done.stderr) == (
        2, "fg: --out d holds another sweep: processes is 1 there; give another folder\n"
    )  # fmt: skip


def test_a_trial_takes_the_threads_of_all_its_processes_begun_or_resumed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run")
    job = Job("one", Recipe(threads=3), tmp_path / "one.yaml", run, tmp_path / "log", processes=2)
    trial = job.prepared(afresh=False)
    assert trial.threads == 6
    for command in (trial.command, trial.again):
        at = command.index("--processes")
        assert command[at : at + 2] == ("--processes", "2")
