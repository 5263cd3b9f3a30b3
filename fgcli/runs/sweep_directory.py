"""The folder of a sweep: sweep.yaml, a run directory a trial, logs, failures. Imports no torch."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fgcli.errors import UsageError
from fgcli.files import write_atomically
from fgcli.runs import lock
from fgcli.runs.record import as_json, name_of, read_record
from fgcli.runs.rows import append_row, read_rows
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.timing import TIMING_FILE


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A row of failed.jsonl: a trial that ended without a result."""

    trial: str
    attempt: int = 1
    exit_code: int | None = None
    last_lines: tuple[str, ...] = ()
    """Of its log."""


@dataclass(frozen=True, slots=True)
class StartedAgain:
    """A row of failed.jsonl: from here on, earlier failures of the trial do not count."""

    trial: str
    attempt: int
    started_again: bool = True


class SweepDirectory:
    """Where a sweep's files are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep_file = path / "sweep.yaml"
        self.failed_file = path / "failed.jsonl"
        self.tuned_file = path / "tuned.json"
        self.timing_file = path / TIMING_FILE
        self.trials = path / "trials"
        self._tuning, self._recipes, self._logs = path / "tuning", path / "recipes", path / "logs"

    def run(self, trial: str, *, tuning: bool = False) -> RunDirectory:
        return RunDirectory((self._tuning if tuning else self.trials) / trial)

    def recipe_file(self, trial: str, *, tuning: bool = False) -> Path:
        """The recipe that the trial is started with."""
        return self._recipes / f"{_prefix(tuning)}{trial}.yaml"

    def log(self, trial: str, *, tuning: bool = False) -> Path:
        return self._logs / f"{_prefix(tuning)}{trial}.log"

    def holds_sweep(self) -> bool:
        """Whether the folder is a sweep's; a new one, or an empty one, is not yet. UsageError for anything else."""
        if self.sweep_file.exists():
            return True
        if self.path.exists() and (not self.path.is_dir() or any(one.name != lock.NAME for one in self.path.iterdir())):
            raise UsageError(f"--out {self.path} is not an empty folder, and holds no sweep; give another one")
        return False

    def record(self, sweep: str, *, tuning: bool) -> None:
        """Write down what is run, as YAML; make the folders of its trials."""
        for folder in (self.trials, self._logs, self._recipes, *([self._tuning] if tuning else [])):
            folder.mkdir(exist_ok=True)
        write_atomically(self.sweep_file, sweep)

    def note(self, attempt: FailedAttempt | StartedAgain) -> None:
        """Add a row to failed.jsonl."""
        append_row(self.failed_file, as_json(attempt))

    def failures(self) -> dict[str, FailedAttempt]:
        """By trial, how its last attempt failed; not of one that was started again. RunError for a broken file."""
        rows, _ = read_rows(self.failed_file, name_of(FailedAttempt.trial), str)
        attempts = [read_record(FailedAttempt, row, self.failed_file) for row in rows]
        last = {one.trial: (one, row) for one, row in zip(attempts, rows, strict=True)}
        return {name: one for name, (one, row) in last.items() if name_of(StartedAgain.started_again) not in row}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep every other bench out. UsageError where one works there already."""
        self.path.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(self.path)
        try:
            yield
        finally:
            held.release()


def sweep_of(run: Path) -> Path | None:
    """The folder of the sweep that a run is a trial of, or of whose search it is a part; None where it is of none."""
    parent = run.resolve().parent
    sweep = SweepDirectory(parent.parent)
    trials = (sweep.run(run.name, tuning=tuning).path.parent for tuning in (False, True))
    return sweep.path if parent in trials and sweep.sweep_file.exists() else None


def _prefix(tuning: bool) -> str:
    return "tuning-" if tuning else ""
