"""A scale where there is nothing to show: a curve over time of a sweep without --timing, say."""

from fgcli.report.drawing import Scale


def test_a_logarithmic_scale_without_numbers_is_a_plain_one() -> None:
    assert Scale(True, [], 0.0, 100.0, 0.0).ends == (0.0, 1.0)
    assert Scale(True, [1.0, 100.0], 0.0, 100.0, 0.0)(10.0) == 50.0


def test_ticks_are_round_in_the_unit_that_is_shown_and_not_the_measured_numbers() -> None:
    mib = 2.0**20
    narrow = Scale(True, [0.31 * mib, 0.63 * mib], 0.0, 100.0, 0.06)
    assert [tick / mib for tick in narrow.ticks(5, [], 1 / mib)] == [0.4, 0.6]
    assert Scale(True, [0.0126, 0.1391], 0.0, 100.0, 0.0).ticks(6, [0.0126, 0.1391234], 1.0) == [0.02, 0.05, 0.1]
    assert Scale(False, [1.0 * mib, 3.0 * mib], 0.0, 100.0, 0.0).ticks(2, [], 1 / mib) == [mib, 2 * mib, 3 * mib]
    assert Scale(True, [64, 2048], 0.0, 100.0, 0.0).ticks(6, [64, 2048], 1.0) == [64, 2048]
