"""The folder of a sweep: sweep.yaml, a run directory a trial, logs, failures. Imports no torch."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fgcli.errors import UsageError
from fgcli.files import write_atomically
from fgcli.runs import lock


class SweepDirectory:
    """Where a sweep's files are."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sweep_file = path / "sweep.yaml"
        self.failed_file = path / "failed.jsonl"
        self.tuned_file = path / "tuned.json"
        self.timing_file = path / "timing.json"

    def run_dir(self, trial: str, *, tuning: bool = False) -> Path:
        return self.path / ("tuning" if tuning else "trials") / trial

    def recipe_file(self, trial: str, *, tuning: bool = False) -> Path:
        """The recipe that the trial is started with."""
        return self.path / "recipes" / f"{_prefix(tuning)}{trial}.yaml"

    def log(self, trial: str, *, tuning: bool = False) -> Path:
        return self.path / "logs" / f"{_prefix(tuning)}{trial}.log"

    def holds_sweep(self) -> bool:
        """Whether the folder is a sweep's; a new one, or an empty one, is not yet. UsageError for anything else."""
        if self.sweep_file.exists():
            return True
        if self.path.exists() and (not self.path.is_dir() or any(one.name != lock.NAME for one in self.path.iterdir())):
            raise UsageError(f"--out {self.path} is not an empty folder, and holds no sweep; give another one")
        return False

    def record(self, sweep: str, *, tuning: bool) -> None:
        """Write down what is run, as YAML; make the folders of its trials."""
        for folder in ("trials", "logs", "recipes", *(["tuning"] if tuning else [])):
            (self.path / folder).mkdir(exist_ok=True)
        write_atomically(self.sweep_file, sweep)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep every other bench out. UsageError where one works there already."""
        self.path.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(self.path)
        try:
            yield
        finally:
            held.release()


def _prefix(tuning: bool) -> str:
    return "tuning-" if tuning else ""
