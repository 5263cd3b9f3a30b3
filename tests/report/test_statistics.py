"""Against closed forms: Student's t with two degrees of freedom has F(t) = 1/2 + t / (2 √(2 + t²))."""

import math

import pytest

from fgcli.report.statistics import Mean, holm, mean_interval, next_interval, paired_difference

T2 = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # the quantile that leaves 2.5 % above it, from F


def test_interval_of_the_mean():
    # 1, 2, 3: mean 2, standard deviation 1
    found = mean_interval([1.0, 2.0, 3.0])
    assert (found.mean, found.n) == (2, 3)
    assert found.half == pytest.approx(T2 / math.sqrt(3), rel=1e-12)


def test_interval_of_one_further_run_is_wider():
    found = next_interval([1.0, 2.0, 3.0])
    assert found.half == pytest.approx(T2 * math.sqrt(4 / 3), rel=1e-12)


@pytest.mark.parametrize("interval", [mean_interval, next_interval])
def test_one_number_has_no_interval_and_equal_ones_have_one_of_no_width(interval):
    assert interval([0.3]) == Mean(0.3, None, 1)
    assert interval([0.5, 0.5, 0.5]) == Mean(0.5, 0.0, 3)
    with pytest.raises(ValueError, match="no values"):
        interval([])


def test_two_numbers_are_their_own_ends():
    """Their interval would be 12.7 times as wide as they are apart."""
    found = mean_interval([0.25, 0.75])
    assert found.half == pytest.approx(0.25 / math.tan(math.pi * 0.025), rel=1e-12)
    assert found.ends == pytest.approx((0.25, 0.75), rel=1e-12)
    assert mean_interval([1.0, 2.0, 3.0]).ends == pytest.approx((2 - T2 / math.sqrt(3), 2 + T2 / math.sqrt(3)))
    assert mean_interval([0.25]).ends is None


def test_differences_are_paired_by_seed():
    ours, baseline = {0: 5.0, 1: 7.0, 2: 9.0, 9: 0.0}, {2: 6.0, 1: 5.0, 0: 4.0, 8: 100.0}
    found = paired_difference(ours, baseline)  # 1, 2, 3
    assert found
    t = 2 * math.sqrt(3)
    assert (found.mean, found.n) == (2, 3)
    assert found.half == pytest.approx(T2 / math.sqrt(3), rel=1e-12)
    assert found.p == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-9)


def test_differences_without_spread_prove_nothing():
    same = paired_difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    shifted = paired_difference({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    rounded = paired_difference({0: 0.3, 1: 0.4}, {0: 0.2, 1: 0.3})  # by 1e-17 not the same
    single = paired_difference({0: 2.0}, {0: 1.0})
    assert [found and found.p for found in (same, shifted, rounded, single)] == [1.0, None, None, None]
    assert paired_difference({0: 1.0}, {1: 1.0}) is None


def test_holm():
    # sorted .005, .01, .03, .04 times 4, 3, 2, 1, then made monotone
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
