"""Expectations that say what was expected and what was found, and the means to hold code to its side effects."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy
import torch
from torch import Tensor, nn

SIGMAS = 4.0


class CheckFailed(AssertionError):
    """What was checked, what was expected, what was found."""


def expect(holds: object, what: str, expected: object, found: object) -> None:
    """CheckFailed unless `holds`."""
    __tracebackhide__ = True
    if not holds:
        raise CheckFailed(f"{what}: expected {expected}, found {found}")


def expect_close(found: Tensor, expected: Tensor, what: str, meaning: str, tolerance: float = 1e-9) -> None:
    """CheckFailed where the largest difference is above `tolerance` times the largest expected value (at least 1)."""
    __tracebackhide__ = True
    error = float((found - expected).abs().max()) if found.numel() else 0.0
    bound = tolerance * max(1.0, float(expected.abs().max()) if expected.numel() else 0.0)
    expect(error <= bound, what, f"{meaning}, to {bound:.1g}", f"a difference of {error:.3g}")


def expect_mean(values: Tensor, expected: float, what: str) -> None:
    """CheckFailed where the mean of independent values [n] is four standard errors off."""
    __tracebackhide__ = True
    error = float(values.mean()) - expected
    spread = float(values.std()) / math.sqrt(len(values))
    if abs(error) > 1e-9 * max(1.0, abs(expected)):  # values that are all equal have no spread, and rounding errors
        score = error / spread if spread else math.inf
        found = f"{expected + error:.6g}, {abs(score):.1f} standard errors off over {len(values)} draws"
        expect(abs(score) < SIGMAS, what, f"a mean of {expected:.6g}", found)


@contextmanager
def without_global_randomness(what: str) -> Iterator[None]:
    """CheckFailed where the block draws from the generators that torch, numpy and Python share among all code."""
    __tracebackhide__ = True
    before = _global_states()
    yield
    drawn = [name for name, state in _global_states().items() if state != before[name]]
    expect(not drawn, what, "no draw but from what it is given", f"draws from {' and '.join(drawn)}")


@contextmanager
def unchanged(model: nn.Module, what: str) -> Iterator[None]:
    """CheckFailed where the block writes into a parameter, a buffer or a `.grad`."""
    __tracebackhide__ = True
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    yield
    for name, tensor in model.state_dict().items():
        same = torch.equal(tensor.nan_to_num(), before[name].nan_to_num())
        expect(same, what, f"{name} left as it is", "another value written into it")
    for name, parameter in model.named_parameters():
        expect(parameter.grad is None, what, f"{name}.grad left alone", "a gradient in it")


def _global_states() -> dict[str, object]:
    _, keys, position, *_ = cast("tuple[str, numpy.ndarray, int, int, float]", numpy.random.get_state())
    return {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "numpy's global generator": (keys.tobytes(), position),
        "the random module": random.getstate(),
    }
