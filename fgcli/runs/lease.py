"""One bench at a time in a sweep's folder, whatever host it is on: a lease, renewed as long as its holder lives.

flock alone does not do: a network file system may have none, or lose it. The lease is the file `lease-N` with the
highest N. Who wants it after it was released, or has gone stale, makes `lease-(N+1)` by an exclusive create, which one
process alone can do on NFS, too. The holder renews the file's time, and sees when a higher one is there. Imports no
torch.
"""

import _thread
import json
import os
import platform
import re
import signal
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fgcli.errors import UsageError
from fgcli.files import read_regular

BEAT_S = 10.0
"""Between two renewals."""
STALE_S = 60.0
"""Without a renewal after which a holder on another host counts as gone. On the same host, its process is looked at."""
_RELEASED = b"released"


class Lease:
    """Held from `acquire` to `release`, to the process's end, or until it is `lost`."""

    def __init__(self, file: Path, number: int) -> None:
        self._file, self._number = file, number
        self.lost: str | None = None
        """Who has taken it over, as this process had given no sign for too long. Then the main thread gets SIGTERM."""
        self._over = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def release(self) -> None:
        """Leave the folder to the next."""
        self._over.set()
        self._beating.join()
        with suppress(OSError), self._file.open("r+b") as file:  # it was taken over
            file.write(_RELEASED)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_S):
            with suppress(OSError):  # the file system is away: it is tried again
                newest = _newest(self._file.parent)
                if newest != self._number:
                    self.lost = _said(_content(self._file.with_name(_name(newest))) or {})
                    _thread.interrupt_main(signal.SIGTERM)
                    return
                os.utime(self._file)


def acquire(folder: Path) -> Lease:
    """Take the lease of a folder. UsageError, with the holder's host and pid, where another bench has it."""
    number = _newest(folder)
    while True:
        _refuse_held(folder / _name(number), folder)
        number += 1
        try:
            descriptor = os.open(folder / _name(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:  # another was faster
            continue
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(_process(os.getpid()), file)
        newest = _newest(folder)  # a network file system may have shown an old list before
        if newest == number:
            break
        (folder / _name(number)).unlink()
        number = newest
    for file in folder.glob("lease-*"):
        if 0 < (_number(file) or 0) < number:
            file.unlink(missing_ok=True)
    return Lease(folder / _name(number), number)


def is_lease(file: Path) -> bool:
    """Whether it is a file of a lease, by its name."""
    return _number(file) is not None


def _name(number: int) -> str:
    return f"lease-{number}"


def _number(file: Path) -> int | None:
    found = re.fullmatch(r"lease-(\d{1,18})", file.name)
    return None if found is None else int(found[1])


def _newest(folder: Path) -> int:
    return max((number for file in folder.iterdir() if (number := _number(file)) is not None), default=0)


def _refuse_held(file: Path, folder: Path) -> None:
    """UsageError where the lease in a file is held now."""
    try:
        holder = _content(file)
        if holder is None or _is_gone(holder, file):
            return
    except FileNotFoundError:  # none yet; or a newer one, whose holder has removed this
        return
    raise UsageError(f"{folder} is in use by {_said(holder)}; wait until that has ended, or stop it")


def _content(file: Path) -> Mapping[str, Any] | None:
    """Who holds it; None where it was released. Empty where nothing sound is written there, or not yet."""
    try:
        content = read_regular(file, 4096)
    except ValueError as error:
        raise UsageError(f"{file} is {error}, and no lease of fg's; remove it") from error
    if content.startswith(_RELEASED):
        return None
    with suppress(ValueError):
        if isinstance(holder := json.loads(content), dict):
            return holder
    return {}


def _is_gone(holder: Mapping[str, Any], file: Path) -> bool:
    """Whether the holder's process is gone; of another host, whether it has not renewed the lease for too long."""
    pid, here = holder.get("pid"), _process(os.getpid())
    if isinstance(pid, int) and all(holder.get(key) == here[key] for key in ("host", "kernel")):
        return _process(pid)["began"] != holder.get("began") or not _lives(pid)
    # By the file system's clock, not by this host's. A file that is opened is not looked up in a cache of NFS.
    probe = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with probe.open("wb") as now, file.open("rb") as then:
            now.write(b"now")
            now.flush()
            return os.fstat(now.fileno()).st_mtime - os.fstat(then.fileno()).st_mtime > STALE_S
    finally:
        probe.unlink(missing_ok=True)


def _process(pid: int) -> dict[str, Any]:
    """What names a process among those of all hosts; where the system tells, also after its pid is given again."""
    return {"pid": pid, "host": platform.node(), "kernel": _kernel(), "began": _status(pid)[21:22]}


def _kernel() -> str:
    """The boot of the system, and its name space of pids (a container has its own); empty where unknown."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    return ""


def _status(pid: int) -> list[str]:
    """The fields of Linux's stat of a process; none where there is no such process, or no such file."""
    try:
        return ["", "", *Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()]
    except OSError:
        return []


def _lives(pid: int) -> bool:
    if status := _status(pid):
        return status[2] != "Z"
    with suppress(PermissionError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
    return True


def _said(holder: Mapping[str, Any]) -> str:
    pid, host = holder.get("pid"), holder.get("host")
    sound = isinstance(pid, int) and isinstance(host, str) and re.fullmatch(r"[\w.-]{1,255}", host)
    return f"process {pid} on {host}" if sound else "another process"
