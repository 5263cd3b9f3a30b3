import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_runs import fake_run, fake_sweep, timing

from fgcli.report.compose import compose
from fgcli.report.document import Figure, Series
from fgcli.report.drawing import lay_out, vertical_scale


def figures(*paths: Path) -> list[Figure]:
    return [item for item in compose(paths).items if isinstance(item, Figure)]


def of_recipe(
    folder: Path, views: str, base: str = "{epochs: 4, eval_every: 1}", seeds: str = "[0, 1]", **more: Any
) -> Path:
    grid = f"{{methods: [wt, wperp], width: [64, 128], seed: {seeds}}}"
    recipe = f"base: {base}\ngrid: {grid}\nviews: [{views}]\n"
    return fake_sweep(folder, recipe, lambda trial: 0.3 + 0.02 * float(trial.axes["seed"]), **more)


def places(series: Series) -> list[tuple[float, Any]]:
    return [(point.x, pytest.approx(point.y.mean)) for point in series.points]


def test_a_figure_over_an_axis_with_published_numbers(sweep_folder):
    figure = figures(sweep_folder)[0]
    (panel,) = figure.panels
    assert [series.name for series in panel.series] == ["W̃ᵀ", "W̃⊥"]
    assert places(panel.series[0]) == [(64, 0.31), (128, 0.62)]
    assert panel.series[0].published == ((64, 0.33),)
    assert panel.series[0].points[0].y.half == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)) * 0.01 / math.sqrt(3))
    assert figure.x.log
    assert "Hollow: paper, single runs." in figure.notes


def test_a_logarithmic_axis_is_one_even_where_an_interval_dips_below_zero_and_a_long_label_is_cut(tmp_path):
    recipe = (
        "grid: {methods: [{label: A method of a very long name (on A card), method: wt}], width: [64, 128], "
        "seed: [0, 1, 2]}\nviews: [{kind: figure, title: F, x: width, y: step_ms_median, log: [y]}]\n"
    )
    (figure,) = figures(
        fake_sweep(tmp_path / "s", recipe, result=lambda t: {"step_ms_median": 100.0 if t.axes["seed"] else 1.0})
    )
    plot = lay_out(figure, figure.panels[0])
    assert [text for _, text in plot.y_ticks] == ["50", "100"]  # of 67, from -75 to 209
    assert plot.curves[0].label == "A method of …(on A card)"


def test_an_axis_shows_what_is_possible_and_what_was_seen_and_not_all_of_a_wide_interval(tmp_path):
    from fgcli.report.plots import _draw

    base = "{epochs: 4, eval_every: 4}"
    views = "{kind: figure, title: F, x: width, y: test_accuracy}, {kind: figure, title: L, x: width, y: test_loss}"
    folder = of_recipe(tmp_path / "s", views, base, "[0, 1, 11]")  # 0.30, 0.32, 0.52: an interval from 0.08 to 0.68
    for figure, (low, high) in zip(figures(folder), ((0.044, 0.718), (0.963, 2.312)), strict=True):
        assert vertical_scale(figure).ends == (pytest.approx(low, abs=0.001), pytest.approx(high, abs=0.001))
        assert _draw(figure).axes[0].get_ylim() == pytest.approx(vertical_scale(figure).ends)
        assert "Intervals that go on beyond the axis are cut there." in figure.notes
    recipe = "grid: {methods: [wt, wperp], seed: [0, 1, 2], width: [64]}\nviews: [%s]\n" % views  # noqa: UP031
    wide = fake_sweep(
        tmp_path / "w", recipe, lambda trial: 0.9 if trial.label == "wt" else 0.1 + float(trial.axes["seed"]) / 4
    )
    low, high = vertical_scale(figures(wide)[0]).ends
    assert -0.06 <= low <= 0.0
    assert 1.0 <= high <= 1.06


def test_each_panel_has_a_budget_of_its_own_and_seconds_of_two_machines_are_not_compared(tmp_path):
    views = "{kind: figure, title: F, x: seed, y: test_accuracy, at: {x: seconds}}"
    folder = of_recipe(tmp_path / "s", views, environment=lambda trial: {"threads": int(trial.axes["seed"]) + 1})
    of_wt = {"timed_step_ms": 5.0, "timed_step_ms_mean": 9.0}  # the mean is what a run pays
    timing(folder, {("wt", 64): of_wt, ("wperp", 64): {"timed_step_ms": 1.0}})
    (figure,) = figures(folder)
    assert figure.notes[:3] == (
        "Each at its last evaluation within the same training time, s: width 64, 0.0320; width 128, 0.0640.",
        "No evaluation within it: wt, width 64 (seed 0, 1).",
        "Measured on different machines, not to be compared: A processor, 1 thread; "
        "A processor, 2 cores (cpu), 1 thread; A processor, 2 cores (cpu), 2 threads.",
    )


def test_curves_have_a_panel_for_each_value_of_an_axis_that_is_not_named(tmp_path):
    (figure,) = figures(of_recipe(tmp_path / "s", "{kind: curve, title: C, y: test_accuracy}"))
    assert [panel.title for panel in figure.panels] == ["width 64", "width 128"]
    assert [series.name for series in figure.panels[0].series] == ["wt", "wperp"]
    points = figure.panels[0].series[0].points
    assert [(point.x, point.y.n) for point in points] == [(1, 2), (2, 2), (3, 2), (4, 2)]
    assert points[-1].y.mean == pytest.approx(0.31)


def test_a_point_alone_has_its_interval_drawn(tmp_path):
    from fgcli.report.plots import _draw

    base = "{epochs: 4, eval_every: 4}"
    (figure,) = figures(of_recipe(tmp_path / "s", "{kind: curve, title: C, y: test_accuracy}", base))
    curve = lay_out(figure, figure.panels[0]).curves[0]
    heights = {float(place.split(",")[1]) for place in curve.band[1:-1].split("L")}
    scale = vertical_scale(figure)
    assert sorted(heights) == [pytest.approx(scale(end), abs=0.05) for end in (0.32, 0.30)]
    (bar, *_) = _draw(figure).axes[0].collections
    assert np.sort(np.asarray(bar.get_paths()[0].vertices)[:, 1]) == pytest.approx([0.30, 0.32])


def test_an_unfinished_run_is_in_the_curve_as_far_as_it_is_and_that_is_said(tmp_path):
    views = "{kind: curve, title: C, y: test_accuracy, where: {width: 64, label: wt}}"
    folder = of_recipe(tmp_path / "s", views, finished=lambda trial: trial.axes["seed"] == 0)
    (series,) = figures(folder)[0].panels[0].series
    assert [point.y.n for point in series.points] == [2, 2, 1, 1]
    assert series.incomplete == "1 of 2 finished"


def test_a_legend_says_what_a_line_lacks_by_the_panels_in_which_it_is_drawn(tmp_path):
    from fgcli.report.plots import _name

    recipe = "grid: {methods: [wt, wperp], width: [64, 128], seed: [0, 1]}\n"
    recipe += "views: [{kind: curve, title: C, y: test_accuracy, panels: width}]\n"
    runs = {("wt", 64, 0), ("wt", 64, 1), ("wt", 128, 0), ("wperp", 64, 0), ("wperp", 64, 1)}

    def score(trial):
        return 0.5 if (trial.label, trial.axes["width"], trial.axes["seed"]) in runs else None

    (figure,) = figures(fake_sweep(tmp_path / "s", recipe, score))
    names = {series.name: _name(figure, series) for panel in figure.panels for series in panel.series}
    assert names == {"wt": "wt\n(width 128: 1 of 2 finished)", "wperp": "wperp"}


def test_what_was_measured_in_turn_is_not_said_to_be_missing_where_no_trial_was_run(tmp_path):
    view = "{kind: %s, title: T, x: width, y: timed_step_ms}", "{kind: table, title: T, value: %s, columns: width}"
    views = ", ".join([view[0] % "figure", view[1] % "timed_step_ms", view[1] % "[timed_step_ms, test_accuracy]"])
    recipe = f"grid: {{methods: [wt, wperp], width: [64, 128], seed: [0, 1]}}\nviews: [{views}]\n"
    folder = fake_sweep(tmp_path / "s", recipe, lambda trial: None if trial.axes["seed"] else 0.5)
    places = [(label, width) for label in ("wt", "wperp") for width in (64, 128)]
    timing(folder, {place: {"timed_step_ms": 5.0} for place in places})
    (figure,) = figures(folder)
    _, table, wider = compose([folder]).items
    assert [(series.incomplete, len(series.points)) for series in figure.panels[0].series] == [("", 2)] * 2
    for item in (figure, table):
        assert not any("not run" in note.lower() or "missing" in note for note in item.notes)
    assert wider.notes[-1].startswith("Not run yet: wt, width 64 (seed 1); wperp, width 64 (seed 1); ")
    timing(folder, {place: {"timed_step_ms": 5.0} for place in places[1:]})
    unmeasured = "What is measured in turn is missing where `fgcli bench --timing` has not measured it."
    assert all(unmeasured in item.notes for item in compose([folder]).items)


def test_time_is_steps_times_the_time_of_one(tmp_path):
    views = "{kind: curve, title: C, x: seconds, y: test_accuracy, where: {width: 64}}"
    folder = of_recipe(tmp_path / "s", views, finished=lambda trial: trial.axes["seed"] == 0)
    timing(folder, {("wt", 64): {"timed_step_ms": 5.0}})
    (figure,) = figures(folder)
    ends = {series.name: series.points[-1].x for series in figure.panels[0].series}
    assert ends == {"wt": pytest.approx(32 * 0.005), "wperp": pytest.approx(32 * 0.002)}  # its own median: 2 ms
    assert "Training time: steps times the median time of a step, from timing.json or the run itself." in figure.notes
    assert figure.notes[1].startswith(
        "Measured on different machines, not to be compared: A processor, 1 thread; A pro"
    )
    assert figure.notes[2].endswith("(it comes with `fgcli bench --timing`): wperp (seed 1).")  # seed 0 is drawn


def test_operations_that_are_not_known_are_named(tmp_path):
    folder = of_recipe(tmp_path / "s", "{kind: curve, title: C, x: flops, y: test_accuracy, where: {width: 64}}")
    timing(folder, {("wt", 64): {"step_flops": 1e6}})
    (figure,) = figures(folder)
    assert [series.name for series in figure.panels[0].series] == ["wt"]
    assert figure.panels[0].series[0].points[-1].x == 32e6
    assert any(note.startswith("Left out, as the number of operations of a step is not known") for note in figure.notes)


def layers(trial: Any) -> Any:
    if trial.label != "wt":
        return None
    curve = {"k": [1, 2], "overlap": [0.5, 0.7], "squared": [0.25, 0.5]}
    last = {"k": [1, 2], "overlap": [0.6, 0.9], "squared": [0.36, 0.81]}
    return lambda epoch: {
        name: {"bias": 0.1 * epoch, "overlap": last if epoch == 4 else curve} for name in ("hidden1", "hidden2")
    }


@pytest.mark.parametrize(
    ("more", "expected"),
    [("", [0.6, 0.9]), (", epoch: 2", [0.5, 0.7]), (", measure: squared", [0.36, 0.81])],
)
def test_overlap_over_k_is_a_line_for_each_layer(tmp_path, more, expected):
    folder = of_recipe(tmp_path / "s", f"{{kind: overlap, title: O, where: {{width: 64}}{more}}}", diagnostics=layers)
    (figure,) = figures(folder)
    assert [panel.title for panel in figure.panels] == ["wt"]
    assert [series.name for series in figure.panels[0].series] == ["hidden1", "hidden2"]
    assert places(figure.panels[0].series[1]) == [(1, expected[0]), (2, expected[1])]
    assert "Not recorded: wperp, no layer." in figure.notes


def test_diagnostics_over_training(tmp_path):
    views = "{kind: curve, title: C, y: {key: bias, layer: hidden2}, where: {width: 64}}"
    (figure,) = figures(of_recipe(tmp_path / "s", views, diagnostics=layers))
    assert places(figure.panels[0].series[0]) == [(0, 0), (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)]
    assert "Layer: hidden2." in figure.notes
    assert "Not recorded: wperp." in figure.notes


def test_a_figure_is_as_high_as_its_legend(sweep_folder):
    from fgcli.report.plots import _draw

    figure = figures(sweep_folder)[0]
    (panel,) = figure.panels
    many = tuple(replace(panel.series[0], name=f"series {number}", style=number) for number in range(30))
    canvas = _draw(replace(figure, panels=(replace(panel, series=many),)))
    assert len(canvas.legends[0].get_texts()) == 30
    assert canvas.legends[0].get_window_extent().height <= canvas.bbox.height


def test_nothing_to_draw_is_said(tmp_path):
    fake_run(tmp_path / "run", finished=False, epochs=1)
    figure = figures(tmp_path / "run")[0]
    assert "No run has a number for this figure yet." in figure.notes


def test_what_a_goal_costs_is_a_point_for_each_label_that_comes_to_it_in_all_seeds(tmp_path):
    recipe = (
        "base: {epochs: 4, eval_every: 1}\ngrid: {methods: [wt, wperp, backprop], width: [64], seed: [0, 1]}\nviews:\n"
        "  - {kind: reach, title: M, goal: {key: test_accuracy, value: 0.4}, y: step_peak_bytes, log: [x, y]}\n"
        "  - {kind: reach, title: L, goal: {key: test_loss, value: 1.4}, x: step, y: peak_memory_bytes}\n"
    )
    ends = {"wt": (0.8, 0.4), "wperp": (0.8, 0.3), "backprop": (0.8, 0.7)}
    folder = fake_sweep(tmp_path / "s", recipe, lambda trial: ends[trial.label][int(str(trial.axes["seed"]))])
    timing(folder, {("wt", 64): {"timed_step_ms": 1000.0, "step_peak_bytes": 2.0**20}})
    memory, loss = figures(folder)
    assert [series.name for series in memory.panels[0].series] == ["wt"]
    (point,) = memory.panels[0].series[0].points
    assert (point.x, point.y.mean, point.y.n) == (20, 2.0**20, 1)  # 8 and 32 steps of a second
    assert "Not all seeds come to it: wperp." in memory.notes
    assert "Come to it, but a number is not measured (`fgcli bench --timing`): backprop." in memory.notes
    assert (
        "Where test accuracy first comes to 0.400 at an evaluation: training time, the mean over seeds." in memory.notes
    )
    assert [series.name for series in loss.panels[0].series] == ["backprop"]  # the lower the better
    assert (places(loss.panels[0].series[0]), loss.x.quantity.key) == ([(12, 100 * 2**20)], "step")  # 8 and 16
