"""Powers of two, which change no digit: squares of what is near one neither under- nor overflow. And float64."""

import math

import torch
from torch import Tensor


def double(values: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none (MPS)."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def near_one(x: Tensor) -> Tensor:
    """x [...] times the power of two that brings its largest absolute value into [1/2, 1).

    Left as it is where that value is 0 or not finite; as far as the range of the dtype allows where it is subnormal.
    """
    low, high = x.aminmax()
    largest = max(float(high), -float(low))
    if largest == 0 or not math.isfinite(largest):
        return x
    limit = math.frexp(torch.finfo(x.dtype).max)[1] - 2
    return x * 2.0 ** max(-limit, min(limit, -math.frexp(largest)[1]))
