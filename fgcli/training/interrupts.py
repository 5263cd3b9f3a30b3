"""Signals that end a run: at the next step's boundary, with a checkpoint."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from fgcli.errors import RunError

# SIGUSR1 is what SLURM sends ahead of a time limit (sbatch --signal=USR1@300), SIGHUP a terminal that is closed.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


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
    request, before = StopRequest(), {}
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    if threading.current_thread() is threading.main_thread():
        before = {n: handler for n in numbers if (handler := signal.getsignal(n)) not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, request.note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
