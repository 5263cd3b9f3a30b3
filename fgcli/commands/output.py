"""Standard output and error that may go away while a run works: it goes on without them. Imports nothing heavy."""

import os
import sys
from contextlib import suppress
from typing import Any, NamedTuple, TextIO

from fgcli.runs.quantity import HUGE
from fgcli.runs.results import Metrics


class Lossy:
    """A stream to which writing never fails: `head` has ended, the terminal is closed, the disk of a log is full.

    What cannot be written is lost, and all that follows; standard error has `notice` then. For what only accompanies a
    command's work.
    """

    def __init__(self, stream: TextIO | None, notice: str = "") -> None:
        self._stream = stream  # Python has None for one that was closed from the start
        self._notice = notice

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, call: str, *arguments: str) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, call)(*arguments)
        except OSError:
            # What lies in the stream's buffer would be tried again at the process's end, and fail that.
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
            if self._notice:
                Lossy(sys.stderr).write(f"{self._notice}\n")
                self._notice = ""


class Pair(NamedTuple):
    """What an evaluation says of both splits: the accuracy, or the loss where there is none."""

    kind: str
    train: float
    test: float


def pair(metrics: Metrics) -> Pair:
    if metrics.train_accuracy is None or metrics.test_accuracy is None:
        return Pair("loss", metrics.train_loss, metrics.test_loss)
    return Pair("accuracy", metrics.train_accuracy, metrics.test_accuracy)


def scores(metrics: Metrics) -> str:
    """The same in words."""
    kind, train, test = pair(metrics)
    return f"{kind} {number_text(train)} train {number_text(test)} test"


def number_text(number: float, digits: int = 3) -> str:
    """A loss or an accuracy with so many digits behind the point; with a power of 10 where a run has diverged."""
    return f"{number:.{digits}f}" if abs(number) < HUGE else f"{number:.3g}"
