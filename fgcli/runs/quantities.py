"""All quantities by key, and the keys that recipes may name. Imports no torch."""

from typing import TYPE_CHECKING, Literal

from fgcli.runs.diagnostics import MOMENTS, OVERLAPS
from fgcli.runs.quantity import Quantity
from fgcli.runs.record import quantities
from fgcli.runs.results import METRICS, Result
from fgcli.runs.timing import TIMING

RESULTS = quantities(Result)
QUANTITIES: dict[str, Quantity] = RESULTS | MOMENTS | OVERLAPS | TIMING
VALUE_KEYS = (*RESULTS, *MOMENTS, *TIMING)
"""What a view of a sweep may show."""

if TYPE_CHECKING:
    MetricKey = ValueKey = OverlapKey = str
else:
    MetricKey, ValueKey, OverlapKey = (Literal[tuple(keys)] for keys in (METRICS, VALUE_KEYS, OVERLAPS))
