"""The folder of a sweep: sweep.yaml, a run directory a trial, logs, failures. Imports no torch."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgcli.errors import RunError, UsageError
from fgcli.files import make_folder, read_json, to_json, write_atomically, writing
from fgcli.runs import lease
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


@dataclass(frozen=True, slots=True)
class Submission:
    """Trials that an executor has handed to others, who run them also when the bench has ended. A JSON file."""

    executor: str
    name: str
    """Of the submission, unique; chosen before it is made, so that none is lost."""
    trials: tuple[Mapping[str, Any], ...]
    """What the executor needs to run each; `name` and `run_dir` are among it."""
    job: str | None = None
    """What the other side calls it; None where it was not told, or not noted in time."""

    def unfinished(self) -> list[str]:
        """The names of its trials without a result."""
        return [one["name"] for one in self.trials if not RunDirectory(Path(one["run_dir"])).is_finished()]


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
        self._submitted = path / "submitted"

    def run(self, trial: str, *, tuning: bool = False) -> RunDirectory:
        return RunDirectory((self._tuning if tuning else self.trials) / trial)

    def recipe_file(self, trial: str, *, tuning: bool = False) -> Path:
        """The recipe that the trial is started with."""
        return self._recipes / f"{_prefix(tuning)}{trial}.yaml"

    def log(self, trial: str, *, tuning: bool = False) -> Path:
        return self._logs / f"{_prefix(tuning)}{trial}.log"

    def submission_file(self, name: str) -> Path:
        """Where a submission is recorded, by its name."""
        return self._submitted / f"{name}.json"

    def submit(self, submission: Submission) -> None:
        """Record what is submitted, before and after it is. WriteError when the disk is full, say."""
        self._submitted.mkdir(exist_ok=True)
        file = self.submission_file(submission.name)
        with writing(file):
            write_atomically(file, to_json(as_json(submission)))

    def submissions(self) -> list[Submission]:
        """What is recorded, and may be under way. RunError for a broken file."""
        return [read_submission(file) for file in sorted(self._submitted.glob("*.json"))]

    def forget(self, submission: Submission) -> None:
        """It has ended."""
        self.submission_file(submission.name).unlink(missing_ok=True)

    def holds_sweep(self) -> bool:
        """Whether the folder is a sweep's; a new one, or an empty one, is not yet. UsageError for anything else."""
        if self.sweep_file.exists():
            return True
        if self.path.exists() and (not self.path.is_dir() or not all(map(lease.is_lease, self.path.iterdir()))):
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
        """Make the folder, and keep every other bench out, on other hosts, too.

        UsageError where one works there already, and where it cannot be made. RunError where another has taken the
        folder over meanwhile.
        """
        make_folder(self.path, "--out")
        held = lease.acquire(self.path)
        try:
            yield
        except BaseException as error:
            if held.lost is not None:
                said = f"stopped, as {held.lost} has taken {self.path} over: this one had given no sign for too long"
                raise RunError(said) from error
            raise
        finally:
            held.release()


def read_submission(file: Path) -> Submission:
    """RunError when it is missing or broken."""
    try:
        return read_record(Submission, read_json(file), file)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {file}: {error}") from error


def sweep_of(run: Path) -> Path | None:
    """The folder of the sweep that a run is a trial of, or of whose search it is a part; None where it is of none."""
    parent = run.resolve().parent
    sweep = SweepDirectory(parent.parent)
    trials = (sweep.run(run.name, tuning=tuning).path.parent for tuning in (False, True))
    return sweep.path if parent in trials and sweep.sweep_file.exists() else None


def _prefix(tuning: bool) -> str:
    return "tuning-" if tuning else ""
