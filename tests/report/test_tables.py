"""The numbers of tables, worked out by hand; statistics by their closed forms are in test_statistics.py."""

import math
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_run, fake_sweep, timing

from fgcli.report.compose import compose
from fgcli.report.document import Cell, Table
from fgcli.report.statistics import Mean, mean_interval
from fgcli.report.values import PROGRESS
from fgcli.runs.quantities import QUANTITIES
from fgcli.sweep.plan import PlannedTrial

T2 = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # Student's t, two degrees of freedom


def tables(*paths: Path, baseline: str | None = None) -> list[Table]:
    items = [item for section in compose(paths, baseline).sections for item in section.items]
    return [item for item in items if isinstance(item, Table)]


def cells(table: Table) -> dict[tuple[str, ...], Cell]:
    """By the heads of the row and the column's heading."""
    return {
        (*row.heads, heading): cell
        for row in table.rows
        for heading, cell in zip(table.headings, row.cells, strict=True)
    }


def texts(cell: Cell) -> list[str]:
    return [line.text for line in cell.lines]


def test_means_differences_and_published_numbers(sweep_folder):
    (table,) = tables(sweep_folder)
    found = cells(table)
    assert list(found) == [(m, f"width {w}") for m in ("W̃ᵀ", "W̃⊥") for w in (64, 128)]
    # 0.30, 0.31, 0.32: half = t · 0.01 / √3 = 0.0248; for one further run t · 0.01 · √(4/3) = 0.0497
    transposed = found["W̃ᵀ", "width 64"]
    assert texts(transposed) == ["0.310 ± 0.025", "paper 0.330 inside"]
    assert transposed.mean is not None
    assert transposed.mean.half == pytest.approx(T2 * 0.01 / math.sqrt(3))
    assert transposed.reference is not None
    assert transposed.reference.high == pytest.approx(0.31 + T2 * 0.01 * math.sqrt(4 / 3))
    assert texts(found["W̃ᵀ", "width 128"]) == ["0.620 ± 0.050", "paper 0.900 outside"]
    # Differences 0.05, 0.06, 0.07: t = 6 √3, p = 1 - t / √(2 + t²) = 0.0091; the same at both widths, so twice that
    perp = found["W̃⊥", "width 128"]
    assert texts(perp) == ["0.680 ± 0.075", "+0.060 ± 0.025, p 0.018"]
    assert perp.comparison is not None
    assert perp.comparison.difference is not None
    t = 6 * math.sqrt(3)
    assert perp.comparison.difference.p == pytest.approx(1 - t / math.sqrt(2 + t * t))
    assert perp.comparison.p_corrected == pytest.approx(2 * (1 - t / math.sqrt(2 + t * t)))
    assert [cell.best for cell in found.values()] == [False, False, True, True]
    assert table.notes == (
        "Mean ± 95 % t-interval over seeds, n = 3.",
        "Bold: the best mean.",
        "With a sign: the mean of the differences to W̃ᵀ with the same seed ± 95 % t-interval; p of the paired t-test, "
        "corrected for the 2 comparisons here (Holm).",
        "paper: the published number, of a single run; inside or outside of the 95 % prediction interval that our runs "
        "give for one further run.",
    )


def test_the_users_baseline_goes_before_the_sweeps(sweep_folder):
    found = cells(tables(sweep_folder, baseline="W̃⊥")[0])
    assert texts(found["W̃ᵀ", "width 64"])[1] == "-0.060 ± 0.025, p 0.018"
    assert len(texts(found["W̃⊥", "width 64"])) == 1


def test_what_the_best_are_the_best_of_is_said(tmp_path):
    for width, method in ((64, "wt"), (64, "wperp"), (128, "wt")):
        fake_run(tmp_path / f"{method}{width}", method=method, width=width, accuracy=width / 256)
    (table, *_) = compose([tmp_path]).items
    assert "Bold: the best mean with the same width." in table.notes


def test_missing_trials_are_shown(sweep_folder):
    trials = sweep_folder / "trials"
    (trials / "wperp-width64-seed1" / "result.json").unlink()
    for seed in range(3):
        (trials / f"wt-width128-seed{seed}").rename(sweep_folder / f"moved{seed}")
    (table,) = tables(sweep_folder)
    found = cells(table)
    assert texts(found["W̃⊥", "width 64"])[0] == "0.370 [0.350, 0.390] (2 of 3)"
    assert texts(found["W̃ᵀ", "width 128"]) == ["missing (0 of 3)", "paper 0.900"]
    assert [trial.name for trial in found["W̃⊥", "width 64"].missing] == ["wperp-width64-seed1"]
    assert found["W̃⊥", "width 128"].comparison is None
    assert table.notes[-2:] == (
        "Not run yet: W̃ᵀ, width 128 (seed 0, 1, 2).",
        "Unfinished: W̃⊥, width 64 (seed 1: stopped or still running, at step 32).",
    )


def test_nothing_finished_is_said(tmp_path):
    fake_run(tmp_path / "run", finished=False)
    (table,) = tables(tmp_path / "run")
    assert table.notes[0] == "No finished run has a number for this table yet."
    assert texts(table.rows[0].cells[0]) == ["missing"]


def test_one_seed_has_no_interval_and_no_verdict(tmp_path):
    recipe = (
        "grid: {methods: [wt, wperp]}\n"
        "views: [{kind: table, title: T, value: test_accuracy, baseline: wt, reference: {wt: 0.7, wperp: 0.5}}]\n"
    )
    (table,) = tables(fake_sweep(tmp_path / "sweep", recipe))
    found = cells(table)
    assert texts(found["wt", "test accuracy"]) == ["0.500", "paper 0.700"]
    assert texts(found["wperp", "test accuracy"]) == ["0.500", "+0.000", "paper 0.500"]
    assert "One seed each, so no intervals." in table.notes


def test_of_two_seeds_no_interval_is_said(tmp_path):
    recipe = (
        "grid: {methods: [wt, wperp], seed: [0, 1]}\n"
        "views: [{kind: table, title: T, value: test_accuracy, baseline: wt}]\n"
    )
    table = tables(fake_sweep(tmp_path / "sweep", recipe, lambda t: 0.6 if t.name == "wt-seed1" else 0.5))[0]
    assert "[" in texts(cells(table)["wperp", "test accuracy"])[1]
    assert not any("t-interval" in note for note in table.notes)
    said = "with the same seed; p of the paired t-test, corrected for the one comparison here (Holm)."
    assert table.notes[-1].endswith(said)


def test_a_published_number_is_held_to_the_interval_as_it_is_written(tmp_path):
    recipe = (
        "grid: {methods: [wt], seed: [0, 1]}\n"
        "views: [{kind: table, title: T, value: test_accuracy, reference: {wt: 1.0}}]\n"
    )
    (table,) = tables(fake_sweep(tmp_path / "sweep", recipe, lambda trial: 0.9998))
    assert texts(table.rows[0].cells[0]) == ["1.000 [1.000, 1.000]", "paper 1.000 inside"]


def test_an_axis_that_a_view_does_not_name_is_never_averaged(tmp_path):
    recipe = (
        "grid: {methods: [wt, wperp], width: [64, 128], depth: [2, 3]}\n"
        "views: [{kind: table, title: T, value: test_accuracy, columns: width, where: {label: [wt]}}]\n"
    )
    found = tables(fake_sweep(tmp_path / "sweep", recipe, lambda trial: float(trial.axes["depth"]) / 10))
    assert [table.title for table in found] == ["T, depth 2", "T, depth 3"]
    assert [texts(table.rows[0].cells[0]) for table in found] == [["0.200"], ["0.300"]]
    assert [row.heads for table in found for row in table.rows] == [("wt",), ("wt",)]


def test_rows_may_be_widths_and_columns_labels(tmp_path):
    recipe = (
        "grid: {methods: [wt, wperp], width: [128, 64]}\n"
        "views: [{kind: table, title: T, value: [train_loss], rows: width, columns: label, baseline: wt}]\n"
    )
    folder = fake_sweep(tmp_path / "sweep", recipe, lambda trial: 0.6 if trial.label == "wt" else 0.5)
    (table,) = tables(folder)
    assert table.headings == ("wt", "wperp")
    assert [row.heads for row in table.rows] == [("128",), ("64",)]
    assert [[cell.best for cell in row.cells] for row in table.rows] == [[True, False]] * 2  # the lower loss


def machine_recipe(value: str) -> str:
    return (
        "grid: {methods: [wt, wperp], width: [64], seed: [0, 1]}\n"
        f"views: [{{kind: table, title: T, value: [{value}, test_accuracy], baseline: wt}}]\n"
    )


def test_times_are_compared_by_ratios(tmp_path):
    folder = fake_sweep(
        tmp_path / "sweep",
        machine_recipe("step_ms_median"),
        result=lambda trial: {"step_ms_median": 2.0 if trial.label == "wt" else 3.0},
    )
    (table,) = tables(folder)
    assert texts(cells(table)["wperp", "time per step, ms"]) == ["3.00 [3.00, 3.00]", "×1.50"]
    assert "Time and memory: A processor, 2 cores (cpu), 1 thread." in table.notes


@pytest.mark.parametrize("other", [{"device_name": "A card"}, {"threads": 2}])
def test_times_of_different_machines_are_marked_and_not_compared(tmp_path, other):
    def environment(trial: Any) -> dict[str, Any] | None:
        return other if (trial.label, trial.axes["seed"]) == ("wperp", 1) else None

    (table,) = tables(fake_sweep(tmp_path / "sweep", machine_recipe("step_ms_median"), environment=environment))
    found = cells(table)
    assert texts(found["wt", "time per step, ms"]) == ["2.00 [2.00, 2.00]ᵃ"]
    assert texts(found["wperp", "time per step, ms"]) in (["2.00 [2.00, 2.00]ᵃᵇ"], ["2.00 [2.00, 2.00]ᵇᵃ"])
    assert not found["wt", "time per step, ms"].best
    assert found["wt", "test accuracy"].best
    (said,) = [note for note in table.notes if note.startswith("Time and memory")]
    assert said.startswith("Time and memory, of different machines, not to be compared: ᵃ A processor")
    assert ("A card, 1 thread" if "device_name" in other else "2 threads") in said


def test_times_measured_in_turn_are_not_averaged_over_seeds(tmp_path):
    folder = fake_sweep(tmp_path / "sweep", machine_recipe("timed_step_ms"))
    timing(folder, {("wt", 64): {"timed_step_ms": 2.0, "timed_step_ms_quartiles": [1.9, 2.25]}})
    (table,) = tables(folder)
    found = cells(table)
    assert texts(found["wt", "time per step, timed in turn, ms"]) == ["2.00", "1.90 to 2.25"]
    assert texts(found["wperp", "time per step, timed in turn, ms"]) == ["missing"]
    assert "Time and memory: A processor, 1 thread." in table.notes


@pytest.mark.parametrize(
    ("at", "reached", "said"),
    [
        ("{x: epoch, value: 2}", {"wt": 2, "wperp": 2}, "the same epoch: 2"),
        ("{x: seconds, value: 0.05}", {"wt": 3, "wperp": 1}, "the same training time, s: 0.0500"),
        ("{x: seconds}", {"wt": 4, "wperp": 2}, "the same training time, s: 0.0640"),
        ("{x: flops, value: 1.0e+9}", {"wt": 1, "wperp": 3}, "the same floating-point operations: 1.00·10⁹"),
    ],
)
def test_the_last_evaluation_within_a_budget_counts(tmp_path, at, reached, said):
    recipe = (
        "base: {epochs: 4, eval_every: 1}\n"
        "grid: {methods: [wt, wperp], width: [64]}\n"
        f"views: [{{kind: table, title: T, value: test_accuracy, at: {at}}}]\n"
    )
    folder = fake_sweep(tmp_path / "sweep", recipe)
    rows = {"wt": {"timed_step_ms": 2.0, "step_flops": 1e8}, "wperp": {"timed_step_ms": 4.0, "step_flops": 4e7}}
    timing(folder, {(label, 64): row for label, row in rows.items()})
    (section,) = compose([folder]).sections
    evaluated = [row.metrics.test_accuracy for row in section.trials[0].run.metrics] if section.trials[0].run else []
    (table,) = tables(folder)
    for row in table.rows:
        assert row.cells[0].mean == Mean(evaluated[reached[row.heads[0]] - 1], None, 1)
    assert table.notes[0] == f"Each at its last evaluation within {said}."


@pytest.mark.parametrize(
    ("at", "reached", "said"),
    [
        ("{x: epoch}", {"wt": 1, "wperp": 2}, ["Each at its last evaluation within the same epoch: 4."]),
        ("{x: epoch, value: 2}", {"wt": 2, "wperp": 2}, ["Each at its last evaluation within the same epoch: 2."]),
        (
            "{x: epoch, value: 9}",
            {"wt": 1, "wperp": 2},
            ["Each at its last evaluation within the same epoch: 9.", "Ended before it: wt, wperp."],
        ),
    ],
)
def test_an_unfinished_run_counts_once_it_has_spent_the_budget(tmp_path, at, reached, said):
    recipe = (
        "base: {epochs: 4, eval_every: 1}\n"
        "grid: {methods: [wt, wperp], seed: [0, 1]}\n"
        f"views: [{{kind: table, title: T, value: test_accuracy, at: {at}}}]\n"
    )
    folder = fake_sweep(tmp_path / "s", recipe, finished=lambda trial: (trial.label, trial.axes["seed"]) != ("wt", 1))
    (table,) = tables(folder)
    assert {row.heads[0]: len(row.cells[0].numbers) for row in table.rows} == reached
    assert list(table.notes[: len(said)]) == said
    assert not any(note.startswith(("No evaluation", "Ended")) for note in table.notes[len(said) :])


def test_accuracies_after_seconds_of_different_machines_are_marked_and_not_compared(tmp_path):
    recipe = (
        "grid: {methods: [wt, wperp], threads: [1, 2], seed: [0, 1]}\n"
        "views: [{kind: table, title: T, value: test_accuracy, rows: threads, columns: label, at: {x: seconds}}]\n"
    )
    machines = {1: {"threads": 1}, 2: {"threads": 2}}
    folder = fake_sweep(tmp_path / "s", recipe, environment=lambda trial: machines[int(trial.axes["threads"])])
    (table,) = tables(folder, baseline="wt")
    assert [texts(cell) for row in table.rows for cell in row.cells] == [
        ["0.500 [0.500, 0.500]ᵃ"], ["0.500 [0.500, 0.500]ᵃ", "+0.000 [+0.000, +0.000], p 1.00"],
        ["0.500 [0.500, 0.500]ᵇ"], ["0.500 [0.500, 0.500]ᵇ", "+0.000 [+0.000, +0.000], p 1.00"],
    ]  # fmt: skip
    assert (
        "Training time, of different machines, not to be compared: ᵃ A processor, 2 cores (cpu), 1 thread; "
        "ᵇ A processor, 2 cores (cpu), 2 threads." in table.notes
    )


def test_diagnostics_of_a_layer_after_an_epoch(tmp_path):
    recipe = (
        "base: {epochs: 4}\n"
        "grid: {methods: [wt]}\n"
        "views: [{kind: table, title: T, value: [{key: variance, epoch: 3, layer: hidden2}, {key: variance}]}]\n"
    )

    def layers(trial: Any) -> Any:
        return lambda epoch: {"hidden1": {"variance": 1e-6 * epoch}, "hidden2": {"variance": 1e-4 * epoch}}

    (table,) = tables(fake_sweep(tmp_path / "sweep", recipe, diagnostics=layers))
    assert table.headings == ("variance of hidden2 after 3 epochs", "variance")
    assert [texts(cell) for cell in table.rows[0].cells] == [["3.00·10⁻⁴"], ["4.00·10⁻⁶"]]


@pytest.mark.parametrize(
    ("key", "mean", "text"),
    [
        ("test_accuracy", Mean(0.5755, 0.0131, 5), "0.576 ± 0.013"),
        ("step_ms_median", Mean(477.2, 12.3, 5), "477 ± 12"),
        ("step_ms_median", Mean(0.01234, 0.0004, 5), "0.0123 ± 0.0004"),
        ("step_ms_median", Mean(9.996, 0.01, 5), "10.00 ± 0.01"),
        ("peak_memory_bytes", Mean(3.5 * 2**20, None, 1), "3.50"),
        ("variance", Mean(1.5e-4, 1.2e-5, 5), "(1.50 ± 0.12)·10⁻⁴"),
        ("variance", Mean(1.5, 0.1, 5), "1.50 ± 0.10"),
        ("variance", Mean(0.0, 0.0, 5), "0.00 ± 0.00"),
        ("test_accuracy", mean_interval([0.35, 0.394]), "0.372 [0.350, 0.394]"),
        ("step_ms_median", mean_interval([7.0, 11.0]), "9.0 [7.0, 11.0]"),
        ("train_loss", Mean(2.5e34, None, 1), "2.50·10³⁴"),
        ("train_loss", Mean(2.5e34, 1.2e33, 5), "(2.50 ± 0.12)·10³⁴"),
        ("train_loss", mean_interval([1e34, 2e34]), "1.50·10³⁴ [1.00·10³⁴, 2.00·10³⁴]"),
        ("variance", mean_interval([1e-4, 2e-4]), "1.50·10⁻⁴ [1.00·10⁻⁴, 2.00·10⁻⁴]"),
    ],
)
def test_how_numbers_are_written(key, mean, text):
    assert mean.text(QUANTITIES[key]) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (1 / 3, "0.333"),
        (12.375, "12.4"),
        (3.16e-4, "0.000316"),
        (1234567, "1234567"),
        (1234.5, "1234.5"),
        (1e12, "1e+12"),
    ],
)
def test_how_places_on_an_axis_are_written(number, text):
    assert PROGRESS["epoch"].text(number) == text


def test_operations_are_compared_by_ratios_and_a_budget_below_the_first_evaluation_is_said(tmp_path):
    recipe = (
        "base: {epochs: 4, eval_every: 1}\n"
        "grid: {methods: [wt, wperp], width: [64]}\n"
        "views:\n"
        "  - {kind: table, title: T, value: step_flops, baseline: wt}\n"
        "  - {kind: table, title: B, value: test_accuracy, at: {x: flops}}\n"
    )
    folder = fake_sweep(tmp_path / "sweep", recipe)
    timing(folder, {("wt", 64): {"step_flops": 1e6}, ("wperp", 64): {"step_flops": 5e6}})
    operations, budget = tables(folder)
    assert [texts(row.cells[0]) for row in operations.rows] == [["1.00·10⁶"], ["5.00·10⁶", "×5.00"]]
    assert [texts(row.cells[0]) for row in budget.rows] == [["0.500"], ["missing"]]  # 32e6 of 40e6 for one epoch
    assert budget.notes[1] == "No evaluation within it: wperp, width 64 (seed 0)."


def test_what_was_not_made_alike_is_said_under_every_table_and_figure(tmp_path):
    recipe = (
        "grid: {methods: [wperp-ns, wt], seed: [0, 1]}\n"
        "views: [{kind: table, title: T, value: test_accuracy}, {kind: curve, title: C, y: test_accuracy}]\n"
    )

    def environment(trial: PlannedTrial) -> dict[str, Any]:
        seed = trial.axes["seed"]
        code = {"nets": {"file": "nets.py", "sha256": f"{seed}abc"}}
        made = {
            "plugins": {"model": f"mine {seed}.0"},
            "data": f"{seed}def",
            "git_commit": "0" * 40 + ("-dirty" if seed else ""),
        }
        return {"code": code, "torch": f"2.{seed}", **made}

    def options(trial: PlannedTrial) -> dict[str, Any]:
        return {"coeffs": f"table {trial.axes['seed']}"} if trial.label == "wperp-ns" else {}

    def odd(trial: PlannedTrial) -> dict[str, Any]:
        return {"torch": f"2.{int(str(trial.axes['seed'])) % 2}"}

    mixed = compose([fake_sweep(tmp_path / "mixed", recipe, environment=environment, options=options)])
    by_seed = "(wperp-ns, seed 0; wt, seed 0)"
    for item in mixed.items:
        (note,) = [note for note in item.notes if note.startswith("Not made alike")]
        for said in ("torch is 2.0", "module nets is 0abc", "model mlp is mine 0.0", "dataset mnist1d is 0def"):
            assert f"{said} {by_seed} and " in note
        assert f"git_commit is {'0' * 40} {by_seed} and {'0' * 40}-dirty (" in note
        assert "wperp-ns: options.coeffs is table 0 (seed 0) and table 1 (seed 1)" in note
    many = compose([fake_sweep(tmp_path / "many", recipe.replace("0, 1", "0, 1, 3, 5"), environment=odd)])
    said = (
        "torch is 2.0 (wperp-ns, seed 0; wt, seed 0) and 2.1 (wperp-ns, seed 1; wt, seed 1; wperp-ns, seed 3; 3 more)"
    )
    assert f"Not made alike: {said}." in many.items[0].notes
    alike = compose([fake_sweep(tmp_path / "alike", recipe)])
    assert not [note for item in alike.items for note in item.notes if note.startswith("Not made alike")]
