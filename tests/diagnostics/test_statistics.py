import math

import pytest
import torch

from fgcli.diagnostics.statistics import Deviation, Measured, deviation, jackknife, over_batches, z_score

VALUES = torch.tensor([1.0, 4.0, 2.0, 7.0], dtype=torch.float64)


def test_mean_and_error_over_batches():
    measured = over_batches([Measured(value) for value in VALUES.tolist()])
    assert measured.mean == pytest.approx(3.5)
    assert measured.error == pytest.approx(float(VALUES.std()) / 2)


def test_a_single_batch_keeps_its_own_error():
    assert over_batches([Measured(3.0, 0.5)]) == Measured(3.0, 0.5)
    assert over_batches([Measured(3.0)]).error is None


def test_equal_values_have_no_error():
    assert over_batches([Measured(0.1)] * 3).error == 0.0


def test_jackknife_of_the_mean_is_its_standard_error():
    measured = jackknife(VALUES.unsqueeze(1), lambda means: means[..., 0])
    assert measured.mean == pytest.approx(3.5)
    assert measured.error == pytest.approx(float(VALUES.std()) / 2)


def test_jackknife_of_a_smooth_function_is_the_delta_method():
    records = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    measured = jackknife(records, lambda means: means[..., 0] * means[..., 1])
    assert measured.mean == pytest.approx(float(records[:, 0].mean() * records[:, 1].mean()))
    assert measured.error == pytest.approx(math.sqrt(9 + 9) / math.sqrt(4000), rel=0.05)


def test_z_score_pools_batches():
    one = deviation(VALUES, 3.0)
    assert (one.difference, one.error) == pytest.approx((0.5, float(VALUES.std()) / 2))
    assert z_score([one], 1.0) == pytest.approx(0.5 / one.error)
    assert z_score([Deviation(1, 1)] * 4, 1.0) == pytest.approx(2.0)


def test_z_score_takes_rounding_for_nothing_and_a_difference_without_spread_for_much():
    assert z_score([Deviation(1e-9, 0.0)], 1.0) is None
    score = z_score([Deviation(0.05, 0.0)], 1.0)
    assert score is not None
    assert score > 1000
