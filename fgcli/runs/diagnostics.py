"""What is recorded of the guesses during a run: the rows of diagnostics.jsonl. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fgcli.errors import RunError
from fgcli.runs.quantity import Quantity
from fgcli.runs.record import as_json, is_number, name_of, quantities, read_record

COSINE = "cosine"
OF_GUESSES = ("covariance_norm", "covariance_rms", "effective_rank")
"""Of a guess's covariance: there must be a guess."""
PREDICTION = "prediction_"
"""Begins the names of what is of feedback's prediction."""
MOMENTS: dict[str, Quantity] = {
    key: replace(quantity, key=key)
    for key, quantity in {
        "bias": Quantity("bias", "lower", "powers"),
        "variance": Quantity("variance", "lower", "powers"),
        "mse": Quantity("mean squared error", "lower", "powers"),
        "covariance_norm": Quantity("‖C − I‖", "lower"),
        "covariance_rms": Quantity("‖C − I‖ / d", "lower"),
        COSINE: Quantity("cosine", "higher", lowest=-1.0, highest=1.0),
        "norm_ratio": Quantity("norm ratio", None, "digits"),
        "effective_rank": Quantity("effective rank", None, "digits"),
        f"{PREDICTION}bias": Quantity("feedback's bias", "lower", "powers"),
        f"{PREDICTION}variance": Quantity("feedback's variance", "lower", "powers"),
        f"{PREDICTION}cosine": Quantity("feedback's cosine", "higher", lowest=-1.0, highest=1.0),
        f"{PREDICTION}norm_ratio": Quantity("feedback's norm ratio", None, "digits"),
    }.items()
}
"""Numbers of a layer's guess. To add one, add it here and compute it in fgcli.diagnostics."""


@dataclass(frozen=True, slots=True)
class OverlapCurve:
    """The gradient's overlap with the top-k subspace, for each of some k."""

    k: tuple[float, ...]
    overlap: Annotated[tuple[float, ...], Quantity("overlap", "higher", highest=1.0)]
    squared: Annotated[tuple[float, ...], Quantity("squared overlap", "higher", highest=1.0)]


@dataclass(frozen=True, slots=True)
class LayerRow:
    """What was recorded of one layer."""

    moments: Mapping[str, float | None]
    """By key of MOMENTS; None where one has no value, as the cosine of a gradient that is 0."""
    overlap: OverlapCurve | None = None

    @property
    def recorded(self) -> set[str]:
        """The diagnostics that are there."""
        return {*self.moments, *([OVERLAP] if self.overlap else [])}


@dataclass(frozen=True, slots=True)
class DiagnosticsRow:
    """The record after `step` updates."""

    epoch: float
    step: int
    layers: Mapping[str, LayerRow]

    def as_json(self) -> dict[str, Any]:
        """A row of diagnostics.jsonl."""
        layers = {
            name: {**one.moments, **({OVERLAP: as_json(one.overlap)} if one.overlap else {})}
            for name, one in self.layers.items()
        }
        return {**as_json(self), name_of(DiagnosticsRow.layers): layers}

    @classmethod
    def from_json(cls, content: Mapping[str, Any], file: Path) -> "DiagnosticsRow":
        """RunError for a row that fg does not write."""
        layers = content.get(name_of(DiagnosticsRow.layers))
        if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
            raise RunError(f"{file}: a row without layers")
        read = {name: _layer(layer, file) for name, layer in layers.items()}
        return replace(read_record(cls, content, file), layers=read)


OVERLAP = name_of(OverlapCurve.overlap)
OVERLAPS = quantities(OverlapCurve)
DIAGNOSTICS = (*MOMENTS, OVERLAP)

if TYPE_CHECKING:
    DiagnosticKey = str
else:
    DiagnosticKey = Literal[tuple(DIAGNOSTICS)]


def _layer(content: Mapping[str, Any], file: Path) -> LayerRow:
    moments = {key: value if is_number(value) else None for key, value in content.items() if key != OVERLAP}
    curve = content.get(OVERLAP)
    if curve is None:
        return LayerRow(moments)
    columns: list[Any] = (
        [curve.get(field.name) for field in fields(OverlapCurve)] if isinstance(curve, dict) else [None]
    )
    if not all(isinstance(column, list) and all(map(is_number, column)) for column in columns) or (
        len({len(column) for column in columns}) != 1
    ):
        raise RunError(f"{file}: an overlap that is no curve over k")
    return LayerRow(moments, OverlapCurve(*map(tuple, columns)))
