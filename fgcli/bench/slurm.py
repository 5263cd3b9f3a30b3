"""The executor `slurm`: trials as tasks of job arrays, which go on when the bench ends. Imports no torch.

A trial's run directory tells its state; squeue is asked second. What is submitted is recorded in the sweep's
folder before sbatch is called, under the name of the job, so that a later bench finds it whatever happens to this one.
"""

import contextlib
import logging
import math
import os
import shlex
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from fgcli.bench import slurm_commands, task
from fgcli.bench.executor import Detached, Outcome, Placement, Trial, refuse_crowded
from fgcli.bench.options import SlurmOptions
from fgcli.bench.slurm_commands import Task
from fgcli.errors import RunError, UsageError
from fgcli.runs.run_directory import RunDirectory, slug
from fgcli.runs.sweep_directory import Submission, SweepDirectory

NAME = "slurm"
POLL_S = 1.0
"""Between two looks at the run directories."""
ABSENCES = 2
"""How often in a row a trial has to be found neither finished nor live: a network file system shows a result late."""
START_S = 60
"""What a trial has at least of its time limit before it is asked to stop."""

_log = logging.getLogger("fgcli")


@dataclass(eq=False)
class _Waiting:
    """A trial that is submitted, and has not ended."""

    trial: Trial
    task: tuple[str, int]
    """The name of its submission, and its place in there."""
    requeued: int = 0
    absent: int = 0


class SlurmExecutor:
    """Submits, waits and queues again what was killed."""

    def __init__(self, options: SlurmOptions) -> None:
        self.options = options
        self._directory: SweepDirectory | None = None
        self._submitted: list[Submission] = []
        self._under_way: dict[str, tuple[str, int]] = {}

    def place(self, threads: int) -> Placement:
        """UsageError where SLURM would refuse the trials, or is not there."""
        slurm_commands.require()
        jobs = self.options.jobs
        partition = self.options.partition or os.environ.get("SBATCH_PARTITION")  # as sbatch does
        given = self.options.time or os.environ.get("SBATCH_TIMELIMIT")
        cpus, default, longest = slurm_commands.partition(partition)
        refuse_crowded(jobs, threads, cpus, "the partition has")
        self._refuse_time(given, default if given is None else slurm_commands.seconds(str(given)), longest)
        slurm_commands.check(self._script("none"), self._arguments(threads))
        at_once = jobs or max(1, cpus // threads)
        return Placement(at_once, f"up to {at_once} trials at once by SLURM, {threads} CPU{'s' * (threads > 1)} each")

    def _refuse_time(self, given: int | str | None, limit: float | None, longest: float) -> None:
        """A limit in seconds that is above the partition's, or leaves no room for a start and a checkpoint."""
        if limit is not None and limit > longest:
            raise UsageError(
                f"--executor slurm: option time is {given}, above the partition's longest time limit; give "
                f"time={int(longest // 60)} or less"
            )
        lead = self.options.lead
        if limit is not None and limit < lead + START_S:
            least = math.ceil((lead + START_S) / 60)
            fixes = [f"time={least} or more"] if 60 * least <= longest else []
            fixes += [f"lead={int(limit) - START_S} or less"] if limit > START_S else []
            raise UsageError(
                f"--executor slurm: a time limit of {limit:g} s is too short: a trial writes a checkpoint {lead} s "
                f"before it (option lead) and needs {START_S} s to start; give "
                f"{', or '.join(fixes) or 'a partition with a longer limit'}"
            )

    def attach(self, directory: SweepDirectory) -> frozenset[str]:
        """What is in the queue or runs; submissions that have ended are forgotten."""
        self._directory = directory
        self._submitted = [one for one in directory.submissions() if one.executor == NAME]
        found = slurm_commands.tasks(one.name for one in self._submitted) if self._submitted else {}
        if found is None:
            raise RunError(f"squeue does not answer, and {directory.path} has trials under way; try again later")
        self._under_way = {}
        for submission in list(self._submitted):
            names = [content["name"] for content in submission.trials]
            places = {name: (submission.name, index) for index, name in enumerate(names)}
            live = {name: place for name, place in places.items() if place in found and found[place].is_live}
            self._under_way |= live
            if not live:
                directory.forget(submission)
                self._submitted.remove(submission)
        return frozenset(self._under_way)

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """Closing the iterator leaves the trials to SLURM, and says so."""
        waiting: list[_Waiting] = []
        new: list[Trial] = []
        for trial in trials:
            if trial.name in self._under_way:
                waiting.append(_Waiting(trial, self._under_way[trial.name]))
            else:
                new.append(trial)
        waiting += self._submit(new)
        if self.options.detach and waiting:
            raise Detached(f"{len(waiting)} trials are with SLURM, {self._jobs(waiting)}")
        try:
            yield from self._outcomes(waiting)
            for submission in self._submitted:
                if self._directory is not None and not submission.unfinished():
                    self._directory.forget(submission)
        finally:
            if waiting:
                given = f"{len(waiting)} trials, {self._jobs(waiting)}"
                _log.warning(f"SLURM goes on with {given}: the same command waits for them again, scancel ends them")

    def _outcomes(self, waiting: list[_Waiting]) -> Iterator[Outcome]:
        """Takes out of `waiting` what has ended."""
        cancelled: list[str] = []
        asked, pause = time.monotonic() - self.options.poll, 0.0
        while waiting:
            time.sleep(pause)
            began = time.monotonic()
            ended = [(one, 0) for one in waiting if _is_finished(one)]
            if not ended and began - asked >= self.options.poll:
                found = slurm_commands.tasks({one.task[0] for one in waiting})
                asked = time.monotonic()
                if found is not None:
                    codes = [(one, self._ended(one, found.get(one.task), cancelled)) for one in waiting]
                    ended += [(one, code) for one, code in codes if code is not None]
            for one, code in ended:
                waiting.remove(one)
                if one.trial.name not in cancelled:
                    yield Outcome(one.trial, code)
            pause = max(POLL_S, 10 * (time.monotonic() - began)) if not ended else 0.0
        if cancelled:
            raise RunError(
                f"stopped: {len(cancelled)} trials were cancelled in SLURM ({cancelled[0]} is one); the same command "
                "submits them again"
            )

    def _ended(self, one: _Waiting, found: Task | None, cancelled: list[str]) -> int | None:
        """The exit code of a trial that has ended, None while it goes on."""
        if found is not None and found.is_live:
            one.absent = 0
            return None
        one.absent += 1
        with contextlib.suppress(OSError):  # a network file system shows what is new in a folder once it was listed
            os.listdir(one.trial.run_dir)
        if _is_finished(one):
            return 0
        if one.absent < ABSENCES:
            return None
        if found is None:  # SLURM forgets what has ended
            return -9
        if found.state == "CANCELLED":
            cancelled.append(one.trial.name)
            return -15
        code = found.exit_code if found.exit_code < 128 else 128 - found.exit_code
        if (code < 0 or found.state not in ("FAILED", "COMPLETED")) and one.requeued < task.REQUEUES:
            one.requeued += 1
            if slurm_commands.requeue(found):
                return None
        return code if code or found.state == "COMPLETED" else -9

    def _submit(self, trials: Sequence[Trial]) -> list[_Waiting]:
        """Arrays of trials with equal threads. RunError where sbatch refuses one."""
        waiting: list[_Waiting] = []
        size = slurm_commands.array_size() if trials else 1
        before: str | None = None
        for threads in sorted({trial.threads for trial in trials}):
            alike = [trial for trial in trials if trial.threads == threads]
            for start in range(0, len(alike), size):
                some = alike[start : start + size]
                submission = self._submit_array(some, threads, before)
                before = submission.job
                waiting += [_Waiting(trial, (submission.name, index)) for index, trial in enumerate(some)]
        return waiting

    def _submit_array(self, trials: Sequence[Trial], threads: int, before: str | None) -> Submission:
        """With a bound on trials at once, after the job `before`: the bound is of one array."""
        directory, jobs = self._directory, self.options.jobs
        assert directory is not None, "attach comes before run"
        name = f"fg-{slug(directory.path.name)[:40]}-{uuid.uuid4().hex[:8]}"
        submission = Submission(NAME, name, tuple(map(task.written, trials)))
        directory.submit(submission)
        arguments = [
            *self._arguments(threads),
            f"--job-name={name}",
            f"--output={directory.log(name)}",
            f"--array=0-{len(trials) - 1}{f'%{jobs}' if jobs else ''}",
            *([f"--dependency=afterany:{before}"] if jobs and before else []),
        ]
        try:
            job = slurm_commands.submit(self._script(str(directory.submission_file(name).absolute())), arguments)
        except RunError:
            directory.forget(submission)
            raise
        submission = replace(submission, job=job)
        directory.submit(submission)
        self._submitted.append(submission)
        return submission

    def _arguments(self, threads: int) -> list[str]:
        options = self.options
        given = {"partition": options.partition, "time": options.time, "mem": options.memory, "gres": options.gres}
        return [
            f"--cpus-per-task={threads}",
            *(f"--{name}={value}" for name, value in given.items() if value is not None),
            f"--signal=B:USR1@{options.lead}",
            "--requeue",
            "--open-mode=append",
            "--export=ALL",
        ]

    def _script(self, file: str) -> str:
        """The program takes the shell's place: a signal to a shell would not reach it."""
        program = shlex.join([sys.executable, "-m", "fgcli.bench.task", file])
        return "\n".join(["#!/bin/sh", *self.options.lines, f'exec {program} "$SLURM_ARRAY_TASK_ID"', ""])

    def _jobs(self, waiting: Iterable[_Waiting]) -> str:
        names = {one.task[0] for one in waiting}
        ids = [one.job or one.name for one in self._submitted if one.name in names]
        return f"job{'s' * (len(ids) > 1)} {', '.join(ids)}"


def _is_finished(one: _Waiting) -> bool:
    return RunDirectory(one.trial.run_dir).is_finished()
