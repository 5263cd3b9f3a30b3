"""Means with their standard errors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measured:
    """A mean and its standard error; None where one measurement alone gives none."""

    mean: float
    error: float | None = None


def over_batches(values: Sequence[Measured]) -> Measured:
    """The mean over batches, with its standard error over them. A single batch keeps the error that it has."""
    if len(values) == 1:
        return values[0]
    means = [value.mean for value in values]
    mean = math.fsum(means) / len(means)
    spread = math.fsum((one - mean) ** 2 for one in means) / (len(means) - 1)
    error = math.sqrt(spread / len(means))
    return Measured(mean, error if error > 1e-14 * abs(mean) else 0.0)  # what is left of equal means is rounding


def jackknife(records: Tensor, statistic: Callable[[Tensor], Tensor]) -> Measured:
    """statistic(mean of records [n, p]) with its standard error by leaving out one record at a time (n >= 2).

    `statistic` takes means [..., p] to numbers [...]. For a smooth one the error is the delta method's; for the mean
    itself it is exactly s / √n. It is NOT corrected for the bias that a non-linear statistic has.
    """
    n = len(records)
    mean = records.mean(0)
    without_one = statistic((n * mean - records) / (n - 1))
    spread = (without_one - without_one.mean()).square().sum() * (n - 1) / n
    return Measured(float(statistic(mean)), float(spread.sqrt()))


def standard_error(values: Tensor) -> Tensor:
    """s / √n of values [n, ...] along the first axis."""
    return values.std(0) / math.sqrt(len(values))


@dataclass(frozen=True)
class Deviation:
    """How far a sampled mean is from the exact value, and the standard error of the sampled mean."""

    difference: float
    error: float


def deviation(values: Tensor, exact: float) -> Deviation:
    """Of the mean of independent values [n] from what it should be."""
    return Deviation(float(values.mean()) - exact, float(standard_error(values)))


def z_score(deviations: Sequence[Deviation], scale: float) -> float | None:
    """Over batches: the sum of the differences over the root of the sum of the squared errors.

    `scale` is the size of the quantity: differences of rounding beside it count as none. None where there is neither
    a difference nor an error (a guess that has no part in what is compared).
    """
    difference = math.fsum(one.difference for one in deviations)
    error = math.sqrt(math.fsum(one.error**2 for one in deviations))
    floor = 16 * torch.finfo(torch.float32).eps * scale * len(deviations)
    if abs(difference) <= floor and error <= floor:
        return None
    return difference / max(error, floor)
