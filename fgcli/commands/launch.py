"""`fgcli train --processes N`: one run in N processes of this machine. Imports no torch.

This process starts them, hands signals on to the first, which alone writes, and waits. When one of them ends before its
time, the others are ended, and one line says which it was.
"""

import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from fgcli.bench.process import dying_with_this, environment
from fgcli.cores import cores, refuse_crowded
from fgcli.errors import RunError, UsageError
from fgcli.runs.meeting import GONE, Meeting
from fgcli.training.interrupts import ENDING, handled

POLL_S = 0.05
GRACE_S = 5.0
"""That the others have to end by themselves, once one has failed."""
LAST_S = 30.0
"""The same after the first has finished the run."""


def launch(number: int, threads: int | None, batch_size: int) -> int:
    """Run this command line in so many processes. Returns the exit code of one that has said itself what was wrong.

    `threads`: of each; None: as many as there are cores for. RunError where one was killed, or failed beside the
    first; with its exit code, as a shell has it: 128 and the number of a signal.
    """
    if number > batch_size:
        raise UsageError(
            f"--processes is {number}; it must be at most {batch_size}, the samples of a batch (--batch-size)"
        )
    refuse_crowded("--processes", number, threads or 1)
    with tempfile.TemporaryDirectory(prefix="fg-") as folder:
        meeting = Meeting(Path(folder))
        with _started(number, meeting, environment(threads or max(1, cores() // number))) as processes:
            # A signal that ends a run goes to its first process, which makes a checkpoint and ends.
            with handled(ENDING, lambda got, _: processes[0].send_signal(got)):
                codes = _wait(processes)
            # One that was killed comes before those that failed, then the lowest rank.
            failed = [(code > 0, rank, code) for rank, code in codes.items() if code not in (0, GONE)]
            _, cause, code = min(failed, default=(True, 0, max(codes.values())))
            if cause == 0 and code >= 0:
                return code
            error = RunError(_said(cause, number, code, meeting))
            error.exit_code = code if code > 0 else 128 - code
            raise error


def _said(rank: int, number: int, code: int, meeting: Meeting) -> str:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
    errors = meeting.errors_file(rank).read_text(encoding="utf-8", errors="replace")
    lines = [line for line in errors.splitlines() if line.strip()]
    why = f": {lines[-1].removeprefix('fg: ')}" if lines and code > 0 else ""
    resume = meeting.resume_command()
    what_now = f"; its checkpoints stand, go on with: {resume}" if resume else ""
    return f"process {rank} of the {number} {how}{why}; the run has ended with it{what_now}"


@contextlib.contextmanager
def _started(number: int, meeting: Meeting, variables: dict[str, str]) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The processes, which are killed in the end."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for rank in range(number):
            with meeting.errors_file(rank).open("wb") as errors:
                processes.append(
                    subprocess.Popen(
                        dying_with_this([sys.executable, "-m", "fgcli", *sys.argv[1:]]),
                        env=variables | meeting.variables(rank, number),
                        stdin=subprocess.DEVNULL,
                        # The first has the outputs; the others' errors are told if they are the cause of the end.
                        stdout=subprocess.DEVNULL if rank else None,
                        stderr=errors if rank else None,
                        start_new_session=True,  # Ctrl-C reaches this process alone
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _wait(processes: Sequence["subprocess.Popen[bytes]"]) -> dict[int, int]:
    """By rank, the exit codes of those that have ended by themselves, once all have, or it is time."""
    deadline = None
    while True:
        codes = {rank: code for rank, one in enumerate(processes) if (code := one.poll()) is not None}
        if len(codes) == len(processes) or codes.get(0, GONE) not in (0, GONE):
            return codes
        if deadline is None and (0 in codes or any(codes.values())):
            deadline = time.monotonic() + (LAST_S if codes.get(0) == 0 else GRACE_S)
        if deadline is not None and time.monotonic() > deadline:
            return codes
        time.sleep(POLL_S)
