"""A batch in parts, however few its samples are."""

import pytest

from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.memory import FLOOR


class _Rows:
    """What a look at few samples would find."""

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def rows(self, samples: int, *, gradients: bool) -> int:
        return min(self._rows, samples)


def in_parts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Let estimates take so many samples at a time where they do not store the batch at once."""
    measured_anew(monkeypatch)
    monkeypatch.setattr(GuessEstimator, "_measure", lambda *_, **__: _Rows(rows))


def measured_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let them look at few samples first, small as the batch may be."""
    for memory in FLOOR:
        monkeypatch.setitem(FLOOR, memory, 0)
