"""A scale where there is nothing to show: a curve over time of a sweep without --timing, say."""

from fgcli.report.drawing import Scale


def test_a_logarithmic_scale_without_numbers_is_a_plain_one() -> None:
    assert Scale(True, [], 0.0, 100.0, 0.0).ends == (0.0, 1.0)
    assert Scale(True, [1.0, 100.0], 0.0, 100.0, 0.0)(10.0) == 50.0
