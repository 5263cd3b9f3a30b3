"""SLURM's own commands, as fg uses them: sbatch, squeue, scontrol, sinfo. No accounting is asked. Imports no torch."""

import math
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fgcli.errors import RunError, UsageError

TIMEOUT_S = 120.0
"""For a controller that does not answer."""
_LIVE = {"PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
         "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}  # fmt: skip
_FIELDS = (("Name", 100), ("JobArrayID", 40), ("State", 20), ("Exit_Code", 12))


@dataclass(frozen=True)
class Task:
    """A task of an array, as SLURM knows it for some minutes after its end, too."""

    id: str
    """Of the array and of the task in it: 12_3."""
    state: str
    exit_code: int
    """Negative for a signal that ended it."""

    @property
    def is_live(self) -> bool:
        return self.state in _LIVE


def require() -> None:
    """UsageError where SLURM's commands are not there."""
    for name in ("sbatch", "squeue", "scontrol", "sinfo"):
        if shutil.which(name) is None:
            raise UsageError(
                f"--executor slurm needs SLURM's {name}, which is not on the path; run this on a login node of the "
                "cluster, or with --executor local"
            )


def submit(script: str, arguments: Sequence[str]) -> str:
    """The job's id. RunError with what sbatch says where it refuses."""
    done = _run(["sbatch", "--parsable", *arguments], script)
    if done.returncode != 0:
        raise RunError(f"sbatch refuses: {_last_line(done)}")
    return done.stdout.strip().partition(";")[0]


def check(script: str, arguments: Sequence[str]) -> None:
    """UsageError with what sbatch would say where it would refuse. Nothing is submitted."""
    done = _run(["sbatch", "--test-only", *arguments], script)
    if done.returncode != 0:
        given = " ".join(word for word in arguments if not word.startswith(("--job-name", "--output", "--array")))
        raise UsageError(f"--executor slurm: sbatch {given} is refused: {_last_line(done)}; see `sinfo`")


def tasks(names: Iterable[str]) -> dict[tuple[str, int], Task] | None:
    """The tasks of the jobs of these names, by name and index; None where the controller does not answer."""
    fields = ",".join(f"{name}:{width}" for name, width in _FIELDS)
    done = _run(["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}", f"--Format={fields}"])
    if done.returncode != 0:
        return None
    found: dict[tuple[str, int], Task] = {}
    for line in done.stdout.splitlines():
        row: list[str] = []
        for _, width in _FIELDS:
            row.append(line[:width].strip())
            line = line[width:]
        name, id, state, status = row
        index = id.rpartition("_")[2]
        if index.isdigit():
            found[name, int(index)] = Task(id, state, _exit_code(status))
    return found


def requeue(task: Task) -> bool:
    """Have it started once more. Whether SLURM does so."""
    return _run(["scontrol", "requeue", task.id]).returncode == 0


def partition(name: str | None) -> tuple[int, float | None, float]:
    """The CPUs of a partition, its default time limit in seconds, None without one, and its longest.

    Of the cluster's own default one where none is named. UsageError where it is not there.
    """
    rows = _sinfo(name)
    if name is not None and not rows:
        known = ", ".join(sorted({row[0].rstrip("*") for row in _sinfo(None)}))
        raise UsageError(f"--executor slurm: there is no partition {name}; known partitions: {known}")
    rows = [row for row in rows if name is not None or row[0].endswith("*")] or rows
    cpus = sum(int(row[1].rpartition("/")[2]) for row in rows)
    limits = [seconds(default) or seconds(longest) for _, _, default, longest in rows]
    return cpus, next(iter(limits), None), max((seconds(row[3]) or math.inf for row in rows), default=math.inf)


def array_size() -> int:
    """The most tasks of one array."""
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]).stdout, re.MULTILINE)
    return max(1, min(1000, int(found[1]) - 1)) if found else 1000


def seconds(limit: str) -> float | None:
    """A time limit as sbatch takes it; None for none, or for what is no time.

    `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`, `days-hours:minutes` and so on.
    """
    if not re.fullmatch(r"(\d+-\d+(:\d+){0,2})|(\d+(:\d+){0,2})", limit):
        return None
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    units = (3600, 60, 1) if dash or len(parts) == 3 else (60, 1)
    return 86400 * int(days or 0) + sum(unit * part for unit, part in zip(units, parts, strict=False))


def _sinfo(partition: str | None) -> list[list[str]]:
    """Name (with * the default one), CPUs in the four states, default and longest time limit of partitions."""
    named = [] if partition is None else [f"--partition={partition}"]
    done = _run(["sinfo", "--noheader", "--format=%P %C %L %l", *named])
    if done.returncode != 0:
        raise UsageError(f"--executor slurm: sinfo fails, is the controller up? It says: {_last_line(done)}")
    return [line.split() for line in done.stdout.splitlines()]


def _exit_code(status: str) -> int:
    """From the status of a wait, which squeue prints as a number, in some versions as code:signal."""
    code, colon, number = status.partition(":")
    if colon:
        return -int(number) if int(number) else int(code)
    given = int(code) if code.isdigit() else 0
    return -(given & 127) if given & 127 else given >> 8


def _run(command: Sequence[str], stdin: str = "") -> "subprocess.CompletedProcess[str]":
    # A user's filters of squeue and sinfo would hide tasks and partitions.
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SINFO_"))}
    try:
        return subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
            errors="replace",
            env=variables,
        )
    except (subprocess.TimeoutExpired, OSError) as error:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]} does not answer: {error}")


def _last_line(done: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip() and not line.startswith("Try ")]
    return (lines or [f"exit code {done.returncode}"])[-1]
