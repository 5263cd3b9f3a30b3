"""A trial that a scheduler starts, as often as it likes: `python -m fgcli.bench.task FILE INDEX` in a batch job.

It begins the trial or goes on with it, in a process that ends with this one. Where the trial was asked to stop ahead of
a time limit (SIGUSR1), or was killed, the job is queued again. Imports no torch.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from fgcli.bench.executor import Trial
from fgcli.bench.process import open_log, spawned
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import read_submission

REQUEUES = 3
"""Starts of a trial that may end before a checkpoint was written."""
WARNED = 128 + signal.SIGUSR1
"""The exit code of a trial that was asked to stop by SIGUSR1."""


def written(trial: Trial) -> dict[str, Any]:
    """The trial as it is recorded with what is submitted."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(trial).items()}


def read(content: Mapping[str, Any]) -> Trial:
    """The trial that was recorded so."""
    made: dict[str, Any] = {
        field.name: Path(value) if field.type is Path else tuple(value) if isinstance(value, list | tuple) else value
        for field in fields(Trial)
        if (value := content[field.name]) is not None
    }
    return Trial(**made)


def run(trial: Trial, starts: int, requeue: tuple[str, ...]) -> int:
    """Run it to its end, or to its next stop. Returns the exit code as a shell has it: 128 and the number of a signal.

    `starts`: how often it was started before. `requeue`: the command that has it started once more.
    """
    directory = RunDirectory(trial.run_dir)
    if directory.is_finished():
        return 0
    before = _checkpoints(directory)
    with open_log(trial) as log:
        process = spawned(trial.command_now(), trial.threads, log, session=False)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda got, _: process.send_signal(got))
        code = process.wait()
        code = 128 - code if code < 0 else code
        if code in (WARNED, 128 + signal.SIGKILL) and (starts < REQUEUES or _checkpoints(directory) != before):
            why = "the time limit is near" if code == WARNED else "it was killed"
            log.write(f"fg: queued again, as {why}\n".encode())
            subprocess.run(requeue, stdout=log, stderr=log, check=False)
    return code


def _checkpoints(directory: RunDirectory) -> list[str]:
    return sorted(os.listdir(directory.checkpoints)) if directory.checkpoints.is_dir() else []


def main() -> None:
    """In a batch job of SLURM."""
    trial = read(read_submission(Path(sys.argv[1])).trials[int(sys.argv[2])])
    starts = int(os.environ.get("SLURM_RESTART_COUNT", "0"))
    sys.exit(run(trial, starts, ("scontrol", "requeue", os.environ["SLURM_JOB_ID"])))


if __name__ == "__main__":
    main()
