"""The process of a trial, on the machine that it is started on. Imports no torch."""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Protocol

from fgcli.bench.executor import Trial

POLL_S = 0.05
GRACE_S = 10.0
"""For a checkpoint, from asking a trial to end to killing it."""

# Who starts a trial and is killed must not leave it behind: it writes where the next one does. Linux ends a process
# with its parent where it was asked to; elsewhere the next start waits for what still runs (see `open_log`).
_DIE_WITH_PARENT = """\
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(137)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Process(Protocol):
    """The process of a trial, the leader of its group: spawned or forked."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


def environment(threads: int) -> dict[str, str]:
    """The variables of a process that may use that many threads; torch reads them when it is imported."""
    return os.environ | {"OMP_NUM_THREADS": str(threads)}


def dying_with_this(command: Sequence[str]) -> list[str]:
    """The command for a process that ends with this one, however this one ends. On Linux; elsewhere as it is."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-ISc", _DIE_WITH_PARENT, str(os.getpid()), *command]


def spawned(
    command: Sequence[str],
    threads: int,
    log: BinaryIO,
    *,
    session: bool = True,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """A new process that ends with this one; `log` takes both of its outputs, `variables` are added to its environment.

    `session`: whether it has a session of its own: Ctrl-C reaches its parent alone, which ends it in its own way.
    """
    return subprocess.Popen(
        dying_with_this(command),
        env=environment(threads) | dict(variables or {}),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=session,
    )


def open_log(trial: Trial) -> BinaryIO:
    """The log, locked. The process inherits the lock with its output: while one of an earlier start is still alive, a
    second one of the same trial waits here."""
    log = trial.log.open("ab")
    try:
        with contextlib.suppress(OSError):  # a file system without locks: the run directory's own may do
            fcntl.flock(log, fcntl.LOCK_EX)
    except BaseException:
        log.close()
        raise
    return log


def end(processes: Sequence[Process]) -> None:
    """Ask all to end, and kill those that do not, or at once where the user is impatient (a second Ctrl-C)."""
    try:
        for process in processes:
            send(process, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_S
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(POLL_S)
    finally:
        for process in processes:
            send(process, signal.SIGKILL)
            process.wait()


def send(process: Process, number: int) -> None:
    """A signal to the process and its children, where it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):  # a forked one that has ended since
            os.killpg(process.pid, number)
