"""Runs the trials of a sweep that are missing. Imports no torch."""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from fgcli.bench.executor import Attaches, Detached, Executor, Outcome, Trial
from fgcli.errors import FgError, RunError
from fgcli.extend.explain import shown
from fgcli.files import write_atomically
from fgcli.recipe import dump
from fgcli.recipe_keys import Recipe
from fgcli.runs import lock
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import FailedAttempt, StartedAgain, SweepDirectory

ATTEMPTS = 2
LAST_LINES = 5


@dataclass(frozen=True)
class Job:
    """A trial that is to be run, with its files."""

    name: str
    recipe: Recipe
    recipe_file: Path
    run: RunDirectory
    log: Path
    plugins: tuple[Path, ...] = ()
    """Plugin files that the trial needs."""
    sinks: tuple[str, ...] = ()
    """Flags that name its metric sinks."""
    processes: int = 1
    """That train it together."""
    settled: Callable[[Recipe], Recipe] = field(default=lambda recipe: recipe, compare=False)
    """Fills in, when a new run starts, what the recipe leaves open and the sweep has settled."""

    @property
    def threads(self) -> int:
        """Of each process."""
        return self.recipe.threads or 1

    def prepared(self, *, afresh: bool) -> Trial:
        """What an executor starts: a new run, or the rest of one that was begun. `afresh` drops what was begun."""
        folder = self.run.path
        if folder.exists() and (afresh or not self.run.recipe_file.exists()):
            lock.refuse_in_use(folder)
            shutil.rmtree(folder)
        self.run.result_file.unlink(missing_ok=True)  # damaged: a whole one is not run again
        goes_on = folder.exists()
        write_atomically(self.recipe_file, dump(self.recipe if goes_on else self.settled(self.recipe)))
        return self.as_it_is(goes_on=goes_on)

    def as_it_is(self, *, goes_on: bool = True) -> Trial:
        """The trial, with nothing of its files touched: it may be under way."""
        begin, again = self._command("--out"), self._command("--resume")
        threads = self.processes * self.threads
        return Trial(self.name, again if goes_on else begin, self.run.path, self.log, threads, again)

    def _command(self, where: str) -> tuple[str, ...]:
        recipe = ("--recipe", str(self.recipe_file), where, str(self.run.path))
        plugins = (part for plugin in self.plugins for part in ("--plugin", str(plugin)))
        together = ("--processes", str(self.processes)) if self.processes > 1 else ()
        return (sys.executable, "-m", "fgcli", "train", "--quiet", *recipe, *together, *plugins, *self.sinks)


@dataclass(frozen=True)
class Failure:
    """A trial that did not finish, after all attempts."""

    job: Job
    exit_code: int | None
    """None where no process was ever started."""
    last_lines: tuple[str, ...]


class Watcher(Protocol):
    """Is told what happens."""

    def started(self, job: Job, attempt: int) -> None: ...

    def finished(self, job: Job) -> None: ...

    def failed(self, failure: Failure, *, again: bool) -> None: ...


def run_jobs(
    jobs: Sequence[Job], executor: Executor, directory: SweepDirectory, watcher: Watcher
) -> dict[str, Failure]:
    """Run what is not finished; a trial that fails is tried once more after the others. Returns what failed, by name.

    Whatever ends this early (Ctrl-C, an executor that raises) ends the trials that run, unless the executor is one that
    attaches to them again. Detached where it does not wait for them.
    """
    failures: dict[str, Failure] = {}
    todo = list(jobs)
    for attempt in range(1, ATTEMPTS + 1):
        todo = [job for job in todo if not job.run.is_finished()]
        by_name = {job.name: job for job in todo}
        began: dict[str, int] = {}
        under_way = executor.attach(directory) if isinstance(executor, Attaches) else frozenset[str]()
        offered = _offered(todo, under_way, attempt, failures, began, directory, watcher)
        for name, exit_code in _outcomes(offered, set(by_name), executor):
            job = by_name.pop(name)
            if exit_code == 0 and job.run.is_finished():
                failures.pop(name, None)
                watcher.finished(job)
            else:
                lines = tuple(last_lines(job.log, began.get(name, 0)))
                directory.note(FailedAttempt(name, attempt, exit_code, lines))
                failures[name] = Failure(job, exit_code, lines)
                watcher.failed(failures[name], again=attempt < ATTEMPTS)
        for job in by_name.values():
            failures[job.name] = Failure(job, None, ("the executor gave no outcome",))
            watcher.failed(failures[job.name], again=attempt < ATTEMPTS)
        todo = [failure.job for failure in failures.values()]
    return {name: failure for name, failure in failures.items() if not failure.job.run.is_finished()}


def _offered(
    todo: Sequence[Job],
    under_way: frozenset[str],
    attempt: int,
    failures: Mapping[str, Failure],
    began: dict[str, int],
    directory: SweepDirectory,
    watcher: Watcher,
) -> Iterator[Trial]:
    """The trials, each made ready when it is asked for. Notes in `began` where its log goes on."""
    for job in todo:
        if job.name in under_way:
            watcher.started(job, attempt)
            yield job.as_it_is()
            continue
        before = failures.get(job.name)
        # What was killed goes on; what failed by itself may have failed for what it left behind.
        killed = before is None or before.exit_code is None or not 0 < before.exit_code < 128
        trial = job.prepared(afresh=not killed)
        began[job.name] = job.log.stat().st_size if job.log.exists() else 0
        if began[job.name] and directory.failed_file.exists():  # so that it does not count as failed meanwhile
            directory.note(StartedAgain(job.name, attempt))
        watcher.started(job, attempt)
        yield trial


def _outcomes(trials: Iterator[Trial], names: set[str], executor: Executor) -> Iterator[tuple[str, int]]:
    """Each trial's name and exit code, as the executor gives them. RunError where the executor itself fails."""
    outcomes = executor.run(trials)
    try:
        for outcome in outcomes:
            if not isinstance(outcome, Outcome):
                raise RunError(f"the executor gave {shown(outcome)}, which is no outcome of a trial")
            if outcome.trial.name not in names:
                raise RunError(f"the executor gave an outcome of {outcome.trial.name}, which does not run")
            names.remove(outcome.trial.name)
            yield outcome.trial.name, outcome.exit_code
    except (FgError, OSError, Detached):
        raise
    except Exception as cause:
        raise RunError(f"the executor failed: {type(cause).__name__}: {cause}") from cause
    finally:
        close = getattr(outcomes, "close", None)
        if close is not None:
            close()


def last_lines(log: Path, start: int = 0) -> list[str]:
    """The end of a log, as far as it was written after its first `start` bytes; none where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(start, file.tell() - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
