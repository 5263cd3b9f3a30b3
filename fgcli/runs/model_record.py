"""What a run's network takes and gives: model.json. Imports no torch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """Enough to use the network where its data are not."""

    input_shape: tuple[int, ...]
    outputs: int
    classes: int
    """As its dataset has it."""
    labels: bool
    """Whether targets are classes."""
    mean: float | tuple[Any, ...]
    """Inputs are standardised by (x - mean) / deviation; nested lists where these are no single numbers."""
    deviation: float | tuple[Any, ...]
    class_names: tuple[str, ...] = ()
    tokens: bool = False
    """Whether inputs are tokens, of which there is no mean."""
    input_names: tuple[str, ...] = ()
    """The columns of a table that the inputs are."""
