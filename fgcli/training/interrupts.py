"""Signals that end a run: at the next step's boundary, with a checkpoint."""

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from fgcli.errors import RunError

# SIGUSR1 is what SLURM sends ahead of a time limit (sbatch --signal=USR1@300), SIGHUP a terminal that is closed.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

GRACE_S = 1.0
"""How long Python has to end by itself at a second signal."""
_OVER = b"\0"  # no signal


class Interrupted(RunError):
    """Stopped by a signal; the exit code is 128 and the signal's number, as the shell has it."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """Which signal asks the run to stop, once one does."""

    by: signal.Signals | None = None

    def note(self, number: int, _: FrameType | None) -> None:
        """A handler. The first signal counts; SIGINT after it, whichever it was, stops at once."""
        if self.by is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.by is None:
            self.by = signal.Signals(number)
            if number == signal.SIGINT and os.isatty(2):
                with suppress(OSError):  # not sys.stderr, which may be in the middle of a write
                    os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C again stops at once\n")


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Within, those signals are noted. One that the process was started to ignore (nohup) stays ignored.

    Outside the main thread, where Python delivers no signals, nothing is noted.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = {number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)}
    with _ended_in_native_code(numbers), handled(numbers, request.note):
        yield request


@contextmanager
def handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Within, these signals have the handler."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def _ended_in_native_code(numbers: Collection[int]) -> Iterator[None]:
    """Within, a SIGINT after another signal ends the process even while torch computes for minutes.

    Python calls handlers between its own instructions alone, and once for two signals that came meanwhile. Here a
    thread counts them. What is on the disk is whole, as after any kill.
    """
    over, (reading, writing) = threading.Event(), os.pipe()
    os.set_blocking(writing, False)

    def watch() -> None:
        seen = False
        while (byte := os.read(reading, 1)) not in (b"", _OVER):
            if seen and byte[0] == signal.SIGINT and not over.wait(GRACE_S):
                os.write(2, b"fg: interrupted at once, within a step; `fgcli train --resume` goes on with the run\n")
                os._exit(128 + signal.SIGINT)
            seen |= byte[0] in numbers

    watcher = threading.Thread(target=watch, daemon=True)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        signal.set_wakeup_fd(before)
        os.write(writing, _OVER)
        watcher.join()
        os.close(reading)
        os.close(writing)
