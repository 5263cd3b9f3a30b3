from fgcli.report.sparkline import sparkline


def test_one_bar_for_each_value_from_low_to_high():
    assert sparkline([0, 0.5, 1]) == "▁▅█"
    assert sparkline([-3, 7]) == "▁█"
    assert sparkline([]) == ""
    assert sparkline([0.3]) == "▃"


def test_equal_values_are_low_bars_however_large():
    assert sparkline([2.6e34, 2.6e34], low=2.6e34, high=2.6e34) == "▁▁"


def test_long_curves_are_thinned_to_the_width_with_both_ends():
    line = sparkline([i / 99 for i in range(100)], width=8)
    assert line == "▁▂▃▄▅▆▇█"
