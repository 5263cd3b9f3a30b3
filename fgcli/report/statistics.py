"""Means over seeds, intervals and paired comparisons by Student's t distribution. Imports no torch."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fgcli.runs.quantity import Quantity

LEVEL = 0.95
_T_OF_TWO = math.tan(math.pi * LEVEL / 2)
"""The quantile of Student's t with one degree of freedom: 12.7."""


@dataclass(frozen=True)
class Mean:
    """The mean of `n` numbers; `half` is half the width of its interval, None where one number gives none."""

    mean: float
    half: float | None
    n: int

    @property
    def ends(self) -> tuple[float, float] | None:
        """Of its interval; of two numbers, whose interval is 13 times as wide as they are apart, the numbers."""
        if self.half is None:
            return None
        half = self.half / _T_OF_TWO if self.n == 2 else self.half
        return self.mean - half, self.mean + half

    def text(self, quantity: Quantity, *, sign: bool = False) -> str:
        """As reports write it: `0.58 ± 0.02`; of two numbers `0.58 [0.57, 0.59]`."""
        if self.n == 2 and self.ends is not None:
            return quantity.with_ends(self.mean, *self.ends, sign=sign)
        return quantity.with_half(self.mean, self.half, sign=sign)


@dataclass(frozen=True)
class Difference(Mean):
    """A mean of paired differences, and the p-value of its being zero; None where the pairs do not tell."""

    p: float | None


def mean_interval(values: Sequence[float]) -> Mean:
    """The mean with its 95 % t-interval: x̄ ± t s/√n. ValueError for no values."""
    return Mean(*_centre(values, 1 / len(values) if values else 0.0), n=len(values))


def next_interval(values: Sequence[float]) -> Mean:
    """The 95 % prediction interval of one further run: x̄ ± t s √(1 + 1/n).

    It is the one to hold a single published run to: the mean's interval shrinks with n, and one run lies outside of it
    more often than not. It takes the runs as normal, and of one kind with the published one.
    """
    return Mean(*_centre(values, 1 + 1 / len(values) if values else 0.0), n=len(values))


def paired_difference(ours: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Ours minus the baseline's over the keys (seeds) that both have, by the paired t-test; None for none."""
    differences = [ours[key] - baseline[key] for key in ours if key in baseline]
    if not differences:
        return None
    rounding = 1e-12 * max(map(abs, [*ours.values(), *baseline.values()]))
    if max(differences) - min(differences) <= rounding:
        differences = differences[:1] * len(differences)
    found = mean_interval(differences)
    return Difference(found.mean, found.half, found.n, _p_value(found))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false one is bounded (Holm 1979), in the order given."""
    count, corrected, running = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda one: p_values[one])):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        corrected[index] = running
    return corrected


def _centre(values: Sequence[float], share: float) -> tuple[float, float | None]:
    """The mean, and t s √share."""
    if not values:
        raise ValueError("no values")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, None
    from scipy.special import stdtrit

    spread = statistics.stdev(values, mean) if len(set(values)) > 1 else 0.0  # of equal values: no rounding
    return mean, float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * spread * math.sqrt(share)


def _p_value(difference: Mean) -> float | None:
    """Two-sided. Of differences that are all the same: 1 where they are 0, else none, as they show no spread."""
    if difference.half is None:
        return None
    if difference.half == 0:
        return 1.0 if difference.mean == 0 else None
    from scipy.special import stdtr, stdtrit

    degrees = difference.n - 1
    t = abs(difference.mean) / difference.half * float(stdtrit(degrees, (1 + LEVEL) / 2))
    return float(2 * stdtr(degrees, -t))
