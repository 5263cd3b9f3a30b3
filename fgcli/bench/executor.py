"""What an executor is: who runs a sweep's trials, and where. Imports no torch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable


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
    """CPU threads that the process uses; it finds them in OMP_NUM_THREADS, set before it starts."""


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
        """
        ...


class Placement(NamedTuple):
    """How an executor will run trials."""

    at_once: int
    said: str
    """The same in words, for the user."""


@runtime_checkable
class PlacesTrials(Protocol):
    """What an executor may have beside `run`: looked at before anything is started."""

    def place(self, threads: int) -> Placement:
        """How trials of that many threads will be run. UsageError where they have no room."""
        ...
