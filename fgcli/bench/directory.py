"""The folder of a sweep: sweep.yaml, a run directory a trial, logs, failures. Imports no torch."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from fgcli.errors import UsageError
from fgcli.files import write_atomically
from fgcli.sweep.plan import plan
from fgcli.sweep.read import read_sweep
from fgcli.sweep.schema import Sweep, dump_sweep
from fgcli.training import lock


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

    def recorded(self) -> Sweep | None:
        """The sweep that the folder is of. UsageError where the folder holds something else."""
        if self.sweep_file.exists():
            return read_sweep(self.sweep_file)[0]
        if self.path.exists() and (not self.path.is_dir() or any(one.name != lock.NAME for one in self.path.iterdir())):
            raise UsageError(f"--out {self.path} is not an empty folder, and holds no sweep; give another one")
        return None

    def record(self, sweep: Sweep) -> None:
        """Write down what is run. The sweep must be `widened` to what the folder holds."""
        for folder in ("trials", "logs", "recipes", *(["tuning"] if sweep.tune else [])):
            (self.path / folder).mkdir(exist_ok=True)
        write_atomically(self.sweep_file, dump_sweep(sweep))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, and keep every other bench out. UsageError where one works there already."""
        self.path.mkdir(parents=True, exist_ok=True)
        held = lock.acquire(self.path)
        try:
            yield
        finally:
            held.release()


def widened(sweep: Sweep, recorded: Sweep | None, out: Path) -> Sweep:
    """The sweep with the seeds that the folder's has beside its own. What was planned there must still be planned.

    UsageError where a trial there is missing in this sweep, or another one.
    """
    if recorded is None:
        return sweep
    seeds = list(dict.fromkeys([*sweep.grid.seed, *recorded.grid.seed]))
    sweep = sweep.with_seeds(sorted(seeds))
    trials = {trial.name: trial for trial in plan(sweep)}
    for old in plan(recorded):
        new = trials.get(old.name)
        if new is None:
            raise _other(out, f"trial {old.name} there is not in the recipe")
        for key in sorted(old.overrides.keys() | new.overrides.keys()):
            if old.overrides.get(key) != new.overrides.get(key):
                raise _other(out, f"{key} of trial {old.name} differs")
    if sweep.tune != recorded.tune:
        raise _other(out, "tune differs")
    return sweep


def _other(out: Path, what: str) -> UsageError:
    return UsageError(f"--out {out} holds another sweep: {what}; give another folder")


def _prefix(tuning: bool) -> str:
    return "tuning-" if tuning else ""
