"""What the search of the learning rate chose: tuned.json. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgcli.errors import RunError
from fgcli.files import read_json, to_json, write_atomically

SCHEMA = 1
_BY, _ROWS = "by", "rows"


@dataclass(frozen=True)
class Choice:
    """One method at one point of the grid."""

    label: str
    axes: Mapping[str, Any]
    candidates: Mapping[float, float | None]
    """The mean over the seeds, by learning rate; None where a trial failed."""
    lr: float | None
    """The best; None where all failed."""

    @property
    def at_the_edge(self) -> bool:
        """Whether a wider search might have chosen another one."""
        return self.lr in (min(self.candidates), max(self.candidates)) and len(self.candidates) > 1

    def as_json(self) -> dict[str, Any]:
        candidates = [{"lr": lr, "mean": value} for lr, value in self.candidates.items()]
        return {"label": self.label, "axes": self.axes, "lr": self.lr, "candidates": candidates}

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> "Choice":
        candidates = {one["lr"]: one["mean"] for one in row.get("candidates", ())}
        return cls(row["label"], dict(row["axes"]), candidates, row["lr"])


def write_tuned(file: Path, by: str, seeds: Sequence[int], choices: Iterable[Choice]) -> None:
    """Write the choices, made `by` a metric. What the file has of other groups stays: they were not asked for now."""
    chosen = list(choices)
    try:
        before = read_tuned(file)[1]
    except RunError:
        before = []  # it is written anew
    places = [(one.label, dict(one.axes)) for one in chosen]
    kept = [one for one in before if (one.label, one.axes) not in places]
    rows = [one.as_json() for one in (*kept, *chosen)]
    write_atomically(file, to_json({"schema": SCHEMA, _BY: by, "seeds": seeds, _ROWS: rows}) + "\n")


def read_tuned(file: Path) -> tuple[str, list[Choice]]:
    """The metric that the choices were made by, and these. RunError for a file that cannot be read."""
    try:
        content = read_json(file)
        return content[_BY], [Choice.from_json(row) for row in content[_ROWS]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RunError(f"cannot read {file}: {error}") from error
