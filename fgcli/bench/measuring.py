"""Asks `fgcli.bench.measure`, in processes of its own, what the trials of a sweep take. Imports no torch."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fgcli.bench.forked import FORKS
from fgcli.bench.process import environment
from fgcli.bench.run import Job, last_lines
from fgcli.bench.tuning import without_lr
from fgcli.errors import RunError, UsageError
from fgcli.files import read_json
from fgcli.recipe import dump
from fgcli.runs.timing import StepMemory, StepTiming, Timing, read_timing, write_timing
from fgcli.sweep.plan import PlannedTrial

START_S = 1.0 if FORKS else 3.0
"""From the start of a trial to its first step, without what `probe` sees. A new process imports Python and torch."""

Trials = Sequence[tuple[PlannedTrial, Job]]


def measure(mode: str, jobs: Sequence[Job]) -> list[Any]:
    """What the process says, a row a job; for `check`, the faults. RunError with its last line where it fails."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [folder / f"{job.name}.yaml" for job in jobs]
        for file, job in zip(files, jobs, strict=True):
            file.write_text(dump(job.recipe), encoding="utf-8")
        command = [sys.executable, "-m", "fgcli.bench.measure", mode, str(folder / "rows.json"), *map(str, files)]
        for plugin in jobs[0].plugins:
            command += ["--plugin", str(plugin)]
        log = folder / "log"
        with log.open("wb") as output:
            ended = subprocess.run(
                command,
                env=environment(jobs[0].threads),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if ended.returncode != 0:
            said = last_lines(log)
            raise RunError(f"measuring {', '.join(job.name for job in jobs)} failed: {said[-1] if said else 'killed'}")
        return read_json(folder / "rows.json")


def refuse_what_cannot_start(trials: Trials) -> None:
    """UsageError with all that would stop missing trials at their start, as a process of its own finds it.

    Where that process crashes, the trials will, too, and each says so.
    """
    missing = [(trial, job) for trial, job in trials if not job.run.is_finished()]
    try:
        faults: list[str] = measure("check", [job for _, job in first_of_each_group(missing)]) if missing else []
    except RunError:
        return
    if faults:
        raise UsageError("; ".join(faults))


def first_of_each_group(trials: Trials) -> Trials:
    """One trial of those that differ in the seed alone."""
    return list({trial.group: (trial, job) for trial, job in reversed(trials)}.values())[::-1]


def time_steps(trials: Trials, file: Path, said: Callable[[str], None]) -> None:
    """Write the timing of each method at each point of the grid, and where. What the file has already, stays."""
    points: dict[tuple[Any, ...], list[tuple[PlannedTrial, Job]]] = {}
    for trial, job in first_of_each_group(trials):  # one process has one number of threads
        points.setdefault((trial.group[1], job.threads), []).append((trial, job))
    try:
        rows = read_timing(file)
    except RunError:
        rows = []  # it is written anew
    for (axes, _), ones in points.items():
        if all(any(_is_of(row, trial) for row in rows) for trial, _ in ones):
            continue
        point = ", ".join(f"{key} {value}" for key, value in axes) or "the one point of the grid"
        said(f"timing {', '.join(trial.label for trial, _ in ones)} at {point}")
        measured = measure("turn", [job for _, job in ones])
        rows = [row for row in rows if not any(_is_of(row, trial) for trial, _ in ones)]
        for (trial, job), row in zip(ones, measured, strict=True):
            memory = StepMemory(**measure("memory", [job])[0])
            rows.append(Timing(trial.label, dict(axes), StepTiming(**row), memory))
        write_timing(file, rows)


@dataclass(frozen=True)
class Estimate:
    """How long a missing trial of a group will take."""

    seconds: float | None
    """None where it is not known."""
    source: str
    """What it is from, or why it is not known."""


def estimate(trials: Trials) -> dict[Any, Estimate]:
    """For the trials that are missing, by group: those that differ in seed and learning rate alone.

    From the group's finished ones, or from a few steps of one.
    """
    missing: dict[Any, Job] = {}
    seconds: dict[Any, list[float]] = {}
    for trial, job in trials:
        if job.run.is_finished():
            seconds.setdefault(without_lr(trial), []).append(job.run.read_result().wall_s + START_S)
        else:
            missing.setdefault(without_lr(trial), job)
    known = {group: Estimate(fmean(seconds[group]), "finished runs") for group in missing if group in seconds}
    unknown = [group for group in missing if group not in seconds]
    return known | dict(zip(unknown, _probed([missing[group] for group in unknown]), strict=True))


def _probed(jobs: Sequence[Job]) -> list[Estimate]:
    """Seconds of each from a few steps, all in one process; where that fails, in one each, to say which cannot run."""
    try:
        rows = measure("probe", jobs) if jobs else []
        source = "a few steps" if all(job.processes == 1 for job in jobs) else "a few steps of one process"
        return [Estimate(row["seconds"] + START_S, source) for row in rows]
    except RunError as error:
        return [Estimate(None, str(error))] if len(jobs) == 1 else [one for job in jobs for one in _probed([job])]


def _is_of(row: Timing, trial: PlannedTrial) -> bool:
    return row.label == trial.label and row.axes == dict(trial.group[1])
