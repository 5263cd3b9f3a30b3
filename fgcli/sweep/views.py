"""What a sweep's report shows: the schema of its views. Imports no torch.

A view names values by their key: what a finished run's result.json holds, what diagnostics.jsonl holds for a layer at
an epoch, or what timing.json holds. `label` names the compared method; every other axis is a key of the grid.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from fgcli.extend.options import Options
from fgcli.runs.diagnostics import OVERLAP
from fgcli.runs.quantities import MetricKey, OverlapKey, ValueKey

Progress = Literal["epoch", "step", "seconds", "flops"]
Scalar = bool | int | float | str

LABEL = "label"


class Value(Options):
    """A number of a run, and the words for it."""

    key: ValueKey = Field(
        description="In result.json; with `epoch`, in metrics.jsonl; in diagnostics.jsonl; or in timing.json."
    )
    title: str = Field(default="", description="Stands over the column or beside the axis, before the unit.")
    epoch: float | None = Field(default=None, ge=0, description="After this many epochs; at the end where not given.")
    layer: str | None = Field(
        default=None, description="Of diagnostics: the layer, such as hidden1; the first if none."
    )


class Budget(Options):
    """Where the compared methods have spent the same: the last evaluation within a budget counts."""

    x: Progress = Field(description="What is spent. seconds and flops are steps times those of one in timing.json.")
    value: float | None = Field(default=None, gt=0, description="How much; by default the most that all have spent.")


def _keyed(value: object) -> object:
    return {"key": value} if isinstance(value, str) else value


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _values(value: object) -> object:
    return list(map(_keyed, _listed(value)))


OneValue = Annotated[Value, BeforeValidator(_keyed)]
Values = Annotated[list[Value], BeforeValidator(_values), Field(min_length=1)]
Names = Annotated[list[str], BeforeValidator(_listed), Field(min_length=1)]
Chosen = Annotated[list[Scalar], BeforeValidator(_listed), Field(min_length=1)]
LogAxes = list[Literal["x", "y"]]


class View(Options):
    """What all views have."""

    title: str = Field(description="Stands over the table or figure.")
    note: str = Field(default="", description="Stands under it.")
    where: dict[str, Chosen] = Field(
        default={}, description="Only trials with these: by `label` or an axis, a value or a list of them."
    )


class Referenced(View, ABC):
    """A view beside which numbers of a publication stand."""

    reference: dict[str, Any] = Field(
        default={},
        description="Published numbers, nested: by the value of each of `rows`, of `columns`, and by the key of the "
        "value where there are several; of a figure by `by` and `x`. Keys are text: quote numbers.",
    )
    reference_name: str = Field(default="paper", description="Where those numbers are from.")

    @property
    @abstractmethod
    def reference_axes(self) -> list[str]:
        """What each level of `reference` is keyed by: `label`, axes, and `value`, the key of a value."""

    def published(self, keys: Sequence[object]) -> float | None:
        """The published number under one key a level, in the order of `reference_axes`; None where there is none."""
        found: object = self.reference
        for key in keys:
            if not isinstance(found, Mapping):
                return None
            found = found.get(as_key(key))
        return float(found) if isinstance(found, int | float) else None


class TableView(Referenced):
    """A table: mean and interval over seeds in each cell, paired differences to the baseline."""

    kind: Literal["table"] = Field(description="A table.")
    value: Values = Field(description="What its cells hold: a key, a mapping with a key, or a list of these.")
    rows: Names = Field(default=[LABEL], description="`label` or an axis, or a list of them: a row for each.")
    columns: str | None = Field(default=None, description="An axis: a column for each of its values.")
    baseline: str | None = Field(default=None, description="The label that the others are compared with.")
    at: Budget | None = Field(default=None, description="Compare where all have spent the same, not at the end.")

    @property
    def reference_axes(self) -> list[str]:
        return [*self.rows, *([self.columns] if self.columns else []), *(["value"] if len(self.value) > 1 else [])]


class CurveView(View):
    """Curves over training: a value of metrics.jsonl or diagnostics.jsonl, mean and interval over seeds."""

    kind: Literal["curve"] = Field(description="Curves over training.")
    x: Progress = Field(default="epoch", description="seconds and flops are steps times those of one in timing.json.")
    y: OneValue = Field(description="A key, or a mapping with a key.")
    by: str = Field(default=LABEL, description="`label` or an axis: a curve for each.")
    panels: str | None = Field(default=None, description="An axis: a panel for each of its values.")
    log: LogAxes = Field(default=[], description="Logarithmic axes.")


class FigureView(Referenced):
    """A figure of a value over an axis, mean and interval over seeds."""

    kind: Literal["figure"] = Field(description="A figure of a value over an axis.")
    x: str = Field(description="An axis of numbers.")
    y: OneValue = Field(description="A key, or a mapping with a key.")
    by: str = Field(default=LABEL, description="`label` or an axis: a line for each.")
    at: Budget | None = Field(default=None, description="Compare where all have spent the same, not at the end.")
    log: LogAxes = Field(default=[], description="Logarithmic axes.")

    @property
    def reference_axes(self) -> list[str]:
        return [self.by, self.x]


class Goal(Options):
    """A number that training comes to."""

    key: MetricKey = Field(description="In metrics.jsonl.")
    value: float = Field(description="Reached by the first evaluation that is as good.")


class ReachView(View):
    """What each method has spent when it comes to a goal, and what a step or a run of it takes: memory against time."""

    kind: Literal["reach"] = Field(description="What a goal costs: a point for each label.")
    goal: Goal = Field(description="An accuracy or a loss.")
    x: Progress = Field(default="seconds", description="What is spent. As in a curve.")
    y: OneValue = Field(description="A key, or a mapping with a key.")
    by: str = Field(default=LABEL, description="`label` or an axis: a point for each.")
    log: LogAxes = Field(default=[], description="Logarithmic axes.")


class OverlapView(View):
    """The gradient's overlap with the top-k subspace over k, from the diagnostic `overlap`: a curve for each layer."""

    kind: Literal["overlap"] = Field(description="Overlap over k.")
    measure: OverlapKey = Field(default=OVERLAP, description="‖V_kᵀg‖/‖g‖, or its square: the share of ‖g‖².")
    epoch: float | None = Field(default=None, ge=0, description="After this many epochs; the last record if not given.")
    panels: str | None = Field(default=None, description="`label` or an axis: a panel for each of its values.")
    log: LogAxes = Field(default=[], description="Logarithmic axes.")


AnyView = TableView | CurveView | FigureView | ReachView | OverlapView
KINDS: dict[str, type[AnyView]] = {get_args(one.model_fields["kind"].annotation)[0]: one for one in get_args(AnyView)}


def as_key(value: object) -> str:
    """A value of an axis as the keys of a recipe spell it: equal numbers alike, 1 for 1.0."""
    return spelled(int(value) if isinstance(value, float) and value.is_integer() else value)


def spelled(value: object) -> str:
    """A value as a file spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
