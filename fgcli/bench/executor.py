"""What an executor is: who runs a sweep's trials, and where. Imports no torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from fgcli.errors import UsageError
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import SweepDirectory


@dataclass(frozen=True)
class Trial:
    """One run of a sweep, as a command line. It is done when its run directory holds a result."""

    name: str
    """Unique within the sweep, and harmless as a file name."""
    command: tuple[str, ...]
    """The program and its arguments; a process of its own."""
    run_dir: Path
    log: Path
    """Where both outputs of the process go, after what is there."""
    threads: int
    """CPU threads that it uses; found in OMP_NUM_THREADS, set before it starts. Those of all of its processes, where it
    starts some."""
    again: tuple[str, ...] = ()
    """In place of `command` once `run_dir` holds a run that was begun: for executors that start a trial more than once
    by themselves."""

    def command_now(self) -> tuple[str, ...]:
        """What to start at this moment.

        Returns:
            `command`, or `again` where a run was begun.
        """
        return self.again if self.again and RunDirectory(self.run_dir).recipe_file.exists() else self.command


@dataclass(frozen=True)
class Outcome:
    """How a trial's process ended."""

    trial: Trial
    exit_code: int
    """0 for a finished run; negative for the signal that killed it."""


class Executor(Protocol):
    """Runs trials. Constructed with its options; used for one sweep."""

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """Start every trial and yield its outcome when it ends, in any order.

        A trial that fails is an outcome and no exception; the others go on. Retrying is the caller's. Closing the
        iterator early (Ctrl-C) ends what runs.

        Args:
            trials: in the order that they should start in.

        Returns:
            An iterator over the outcomes.
        """
        ...


class Placement(NamedTuple):
    """How an executor will run trials."""

    at_once: int
    said: str
    """The same in words, for the user."""


FEWER = {"thread": "fewer --threads, or fewer processes where the recipe has several", "CPU": "a lower option cpus"}
"""What makes a trial take less, by the unit that it is counted in."""


def refuse_crowded(jobs: int | None, each: float, cores: float, where: str, unit: str = "thread") -> None:
    """UsageError for more trials at once, or a larger one, than there are cores for; it says how many there may be.

    `each` counts `unit`: "thread", or "CPU" where an option cpus is given in place of the threads. `jobs` is None for
    as many as there is room for. `where`: "this machine has", say.
    """
    needs, fixes = f"{each:g} {unit}{'s' * (each != 1)}", [FEWER[unit]] if each > 1 or unit == "CPU" else []
    if each > cores:
        raise UsageError(f"a trial of {needs} needs {each:g} cores, and {where} {cores:g}; give {FEWER[unit]}")
    if jobs is not None and jobs * each > cores:
        raise UsageError(
            f"--jobs {jobs} with {needs} a trial needs {jobs * each:g} cores, and {where} {cores:g}; give "
            f"{', or '.join([f'--jobs {int(cores // each)}', *fixes])}"
        )


@runtime_checkable
class PlacesTrials(Protocol):
    """What an executor may have beside `run`: looked at before anything is started."""

    def place(self, threads: int) -> Placement:
        """How trials will be run.

        Args:
            threads: CPU threads of each trial.

        Returns:
            How many run at once.

        Raises:
            UsageError: where there is no room for one.
        """
        ...


@runtime_checkable
class Attaches(Protocol):
    """What an executor may have beside `run` whose trials go on when the bench that started them has ended."""

    def attach(self, directory: SweepDirectory) -> frozenset[str]:
        """The names of the trials that an earlier bench has started and that are still under way, as recorded in the
        sweep's directory by `submit`. RunError where that cannot be told.

        Called before each `run`, which gets these trials once more and gives their outcomes.
        """
        ...


class Detached(Exception):
    """Raised by an executor's `run`: its trials are under way, and this bench does not wait for them."""
