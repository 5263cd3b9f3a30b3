"""Numbers that a forward reads off tensors, as a branch on values does: read once a step, and the same in all forwards.

So a part of a batch goes the way of the whole, and no forward another way where its sums are rounded otherwise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

READS = {Tensor.__bool__, Tensor.__float__}

_OF_STEP: ContextVar[list[tuple[Any, Any]] | None] = ContextVar("reads", default=None)


@contextmanager
def read_once() -> Iterator[list[tuple[Any, Any]]]:
    """Within it the first forward reads, and those that follow are given what it has read: operation and number."""
    known = _OF_STEP.get()
    if known is not None:  # a part of what is within it already
        yield known
        return
    known = []
    token = _OF_STEP.set(known)
    try:
        yield known
    finally:
        _OF_STEP.reset(token)


class Reader:
    """What one forward reads, in its order."""

    def __init__(self) -> None:
        self._known, self._number = _OF_STEP.get(), 0

    def read(self, func: Any, value: Tensor) -> Any:
        """What an operation of `READS` reads off the tensor."""
        if self._known is None:
            return func(value)
        self._number += 1
        if self._number > len(self._known):
            self._known.append((func, func(value)))
        kind, read = self._known[self._number - 1]
        return read if kind is func else func(value)
