"""One process at a time in a run directory: a lock that the kernel takes from a process that dies. Imports no torch.

It is flock's, on the file `lock` in the directory, which stays there and says who held it last. A process that is
forked, and runs nothing else, holds it with its parent.
"""

import fcntl
import os
import re
import socket
import stat
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from fgcli.errors import UsageError

NAME = "lock"


@dataclass
class RunLock:
    """Held from `acquire` to `release`, or to the process's end."""

    descriptor: int | None
    missing: str | None = None
    """Why this file system has no locks, where it has none: then nothing keeps a second process out."""

    def release(self) -> None:
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def acquire(folder: Path) -> RunLock:
    """Lock a run directory, at once. UsageError, with the holder's pid, when another process works there."""
    _refuse_other(folder / NAME)
    descriptor = os.open(folder / NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with ExitStack() as unlocked:
        unlocked.callback(os.close, descriptor)
        try:
            missing = _flock(descriptor, exclusive=True)
        except BlockingIOError:
            raise _in_use(folder, _holder(descriptor)) from None
        if missing is not None:
            return RunLock(None, missing)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        unlocked.pop_all()
    return RunLock(descriptor)


def refuse_in_use(folder: Path) -> None:
    """UsageError when a process works in a run directory now. Writes nothing."""
    _refuse_other(folder / NAME)
    try:
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:  # no run has been here
        return
    try:
        _flock(descriptor, exclusive=False)
    except BlockingIOError:
        raise _in_use(folder, _holder(descriptor)) from None
    finally:
        os.close(descriptor)


def _refuse_other(file: Path) -> None:
    """UsageError where a pipe, a folder or a link, hard ones too, has the lock's name."""
    if not os.path.lexists(file):
        return
    found = file.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise UsageError(f"{file} is no regular file of its own, which the lock of a run must be; remove it")


def _flock(descriptor: int, *, exclusive: bool) -> str | None:
    """Why there are no locks here, or None. BlockingIOError when another has it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        return error.strerror or str(error)
    return None


def _holder(descriptor: int) -> str:
    text = os.pread(descriptor, 300, 0).decode("ascii", errors="replace").strip()
    return text if re.fullmatch(r"process \d+ on [\w.-]+", text) else "another process"


def _in_use(folder: Path, holder: str) -> UsageError:
    return UsageError(f"{folder} is in use by {holder}; wait until that has ended, or stop it")
