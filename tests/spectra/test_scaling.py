import math

import pytest
import torch

from fgcli.spectra.scaling import near_one


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 0.75, 1.0, -5.0, 1e30])
def test_the_largest_entry_comes_near_one_by_a_power_of_two(scale: float, dtype: torch.dtype) -> None:
    x = scale * torch.tensor([[0.3, -1.0], [0.0, 0.1]], dtype=dtype)
    scaled = near_one(x)
    assert 0.5 <= float(scaled.abs().max()) < 1
    assert math.frexp(float(scaled[0, 1]))[0] == math.frexp(float(x[0, 1]))[0]
    assert torch.equal(scaled * (x[0, 1] / scaled[0, 1]), x)


def test_what_cannot_be_scaled_stays_as_it_is() -> None:
    for value in (0.0, math.inf, -math.inf, math.nan):
        x = torch.tensor([value, 0.0])
        assert near_one(x) is x
    subnormal = near_one(torch.tensor([1e-44]))
    assert 0 < float(subnormal) < 1
