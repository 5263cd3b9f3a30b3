"""The built-in executor: trials as processes of this machine, a few at once."""

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fgcli.bench.executor import Outcome, Placement, Trial, refuse_crowded
from fgcli.bench.forked import Starter
from fgcli.bench.options import LocalOptions
from fgcli.bench.process import POLL_S, Process, end, open_log, send
from fgcli.cores import cores


class LocalExecutor:
    """Trials are started from the thread that asks for outcomes."""

    def __init__(self, options: LocalOptions) -> None:
        self.jobs = options.jobs
        self.patience_s = None if options.patience is None else 60 * options.patience
        self._starter = Starter()

    def place(self, threads: int) -> Placement:
        """As many at once as were asked for; UsageError where the cores have no room for their threads."""
        jobs = self._jobs(threads)
        refuse_crowded(jobs, threads, cores(), "this machine has")
        trials, each = ("trial" if jobs == 1 else "trials"), ("thread" if threads == 1 else "threads")
        self.jobs = jobs  # for all trials, also where some have fewer threads
        return Placement(jobs, f"{jobs} {trials} at once, {threads} {each} each, on {cores()} cores")

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        waiting = iter(trials)
        running: list[_Running] = []
        try:
            while True:
                while len(running) < self._jobs(max((one.trial.threads for one in running), default=1)):
                    trial = next(waiting, None)
                    if trial is None:
                        break
                    with open_log(trial) as log:
                        running.append(_Running(trial, self._starter.start(trial.command, trial.threads, log)))
                if not running:
                    return
                ended = [one for one in running if one.process.poll() is not None]
                for one in ended:
                    running.remove(one)
                    yield Outcome(one.trial, one.process.wait())
                if not ended:
                    self._kill_stuck(running)
                    time.sleep(POLL_S)
        finally:
            end([one.process for one in running])

    def _jobs(self, threads: int) -> int:
        return self.jobs or max(1, cores() // threads)

    def _kill_stuck(self, running: Iterable["_Running"]) -> None:
        """Kill what has written nothing for too long; its outcome is that of any trial that is killed."""
        for one in running:
            if self.patience_s is not None and one.silent_for() > self.patience_s:
                with one.trial.log.open("ab") as log:
                    log.write(f"fg: killed, as it wrote nothing for {self.patience_s / 60:g} minutes\n".encode())
                send(one.process, signal.SIGKILL)
                one.process.wait()


@dataclass(eq=False)
class _Running:
    """A trial at work, and when it last wrote something."""

    trial: Trial
    process: Process
    _written: list[tuple[int, int]] = field(default_factory=list)
    _since: float = field(default_factory=lambda: time.monotonic())

    def silent_for(self) -> float:
        """Seconds, as far as earlier calls have noticed."""
        folder = self.trial.run_dir
        files = [self.trial.log, folder, *(sorted(folder.iterdir()) if folder.is_dir() else [])]
        written = [(status.st_size, status.st_mtime_ns) for path in files if (status := _status(path))]
        if written != self._written:
            self._written, self._since = written, time.monotonic()
        return time.monotonic() - self._since


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
