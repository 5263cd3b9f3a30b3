import os
import shutil
from pathlib import Path

from fake_runs import SWEEP, accuracy, fake_run, fake_sweep

from fgcli.files import to_json
from fgcli.report.chapters import Chapter, make_chapters
from fgcli.report.compose import compose
from fgcli.report.copies import NOTHING_NEW
from fgcli.report.data import as_csv
from fgcli.report.document import Table
from fgcli.report.trials import Problem, gather


def chapters(*paths: Path) -> tuple[list[Chapter], list[Problem]]:
    return make_chapters(gather(paths)[0])


def test_an_option_that_goes_with_its_dataset_is_no_axis_and_equal_settings_are_said_once(tmp_path):
    runs = tmp_path / "runs"
    fake_run(runs / "a", dataset="mnist1d", dataset_options={"seed": 42}, method="wt", width=32, clip_norm=1.0)
    fake_run(runs / "b", dataset="digits", dataset_options={"seed": 0}, method="wt", width=64, clip_norm=1.0)
    (chapter,), _ = chapters(runs)
    assert chapter.axes == ("dataset", "width")
    same = "model mlp, epochs 4, batch size 512, optimizer adamw, lr 0.0001, clip norm 1.0"
    assert chapter.description == f"The same in all runs: {same}."
    fake_run(runs / "c", dataset="digits", dataset_options={"seed": 1}, method="wt", width=64, clip_norm=1.0)
    assert chapters(runs)[0][0].axes == ("dataset", "dataset_options.seed", "width")


def test_single_runs_are_named_by_the_options_in_which_they_differ(tmp_path):
    runs = tmp_path / "runs"
    fake_run(runs / "a", method="wperp", options={"solver": "ritz"}, k=10, tangents=1)
    fake_run(runs / "b", method="wperp", options={"solver": "shared"}, k=10, tangents=1)
    fake_run(runs / "c", method="wt", options={"solver": "none"})
    fake_run(runs / "d", method="wt", options={"solver": "none"}, width=128, lr=0.01, seed=3, threads=2)
    (chapter,), problems = chapters(runs)
    assert chapter.labels == ["wperp solver=ritz", "wperp solver=shared", "wt"]
    assert chapter.axes == ("width", "lr")  # and not the seed, nor the threads, nor tangents, which wt here has none of
    assert not problems


def test_a_single_run_says_that_feedback_is_on_and_what_it_is_of(tmp_path):
    fake_run(tmp_path / "run", method="activation-perturbation", feedback="local", lr=0.003)
    (chapter,), _ = chapters(tmp_path / "run")
    assert chapter.labels == ["activation-perturbation feedback=local"]
    assert chapter.description == (
        "The run: dataset mnist1d, model mlp, width 64, epochs 4, batch size 512, optimizer adamw, lr 0.003."
    )
    fake_run(tmp_path / "without", method="activation-perturbation", feedback="none")
    labels = ["activation-perturbation feedback=local", "activation-perturbation feedback=none"]
    assert chapters(tmp_path / "run", tmp_path / "without")[0][0].labels == labels


def test_a_learning_rate_of_each_method_is_told_and_keeps_no_methods_apart(tmp_path):
    runs = tmp_path / "runs"
    for seed, method, lr in ((0, "wt", 0.01), (1, "wt", 0.01), (0, "backprop", 0.003)):
        fake_run(runs / f"{method}{seed}", method=method, lr=lr, seed=seed)
    (chapter,), _ = chapters(runs)
    assert chapter.axes == ()
    assert chapter.description.endswith("optimizer adamw.\nLearning rates: backprop 0.003, wt 0.01.")
    fake_run(runs / "another", method="wt", lr=0.02)
    assert chapters(runs)[0][0].axes == ("lr",)


def test_the_default_views_follow_what_was_recorded(tmp_path):
    fake_run(tmp_path / "plain")
    (chapter,), _ = chapters(tmp_path / "plain")
    assert [view.kind for view in chapter.views] == ["table", "curve", "curve"]
    layers = {"hidden1": {"bias": 1.0, "overlap": {"k": [1], "overlap": [0.5], "squared": [0.25]}}}
    fake_run(tmp_path / "more", diagnostics=lambda epoch: layers)
    (chapter,), _ = chapters(tmp_path / "more")
    assert [view.title for view in chapter.views[3:]] == [
        "Bias over epochs, first layer",
        "Overlap of the gradient with the top-k space",
    ]


def test_a_run_joins_the_sweep_that_it_is_comparable_with(tmp_path, sweep_folder):
    fake_run(tmp_path / "mine", method="mine", epochs=4)
    fake_run(tmp_path / "longer", method="mine", epochs=8)
    fake_run(tmp_path / "wider", method="mine", epochs=4, width=96)
    found, _ = chapters(sweep_folder, tmp_path / "mine", tmp_path / "longer", tmp_path / "wider")
    assert [chapter.title for chapter in found] == ["Accuracy by width", "Runs"]
    assert found[0].labels == ["W̃ᵀ", "W̃⊥", "mine"]
    assert found[0].axes == ("width",)
    assert [trial.name for trial in found[1].trials] == ["longer", "wider"]


def test_sweeps_with_the_same_views_are_compared(tmp_path, sweep_folder):
    theirs = SWEEP.replace("{label: W̃ᵀ, method: wt}, ", "{label: W̃ᵀ, method: wt}, {label: new, method: new}, ")
    fake_sweep(tmp_path / "theirs", theirs, lambda trial: accuracy(trial) + 0.001)
    other = SWEEP.replace("Tab. 3", "Tab. 4")
    fake_sweep(tmp_path / "other", other, accuracy)
    found, _ = chapters(sweep_folder, tmp_path / "theirs", tmp_path / "other")
    assert [len(chapter.trials) for chapter in found] == [12 + 18, 12]
    theirs_path = tmp_path / "theirs"
    assert found[0].labels == ["W̃ᵀ", "W̃⊥", f"W̃ᵀ ({theirs_path})", "new", f"W̃⊥ ({theirs_path})"]


def test_more_seeds_of_the_same_label_are_of_one_group(tmp_path, sweep_folder):
    fake_sweep(tmp_path / "more", SWEEP.replace("[0, 1, 2]", "[3, 4]"), accuracy)
    (chapter,), _ = chapters(sweep_folder, tmp_path / "more")
    assert chapter.labels == ["W̃ᵀ", "W̃⊥"]
    assert len(chapter.trials) == 12 + 8


def test_sweeps_of_other_epochs_are_told_apart_by_them(tmp_path, sweep_folder):
    fake_sweep(tmp_path / "longer", SWEEP.replace("epochs: 4", "epochs: 8").replace("[0, 1, 2]", "[3]"), accuracy)
    by_default = SWEEP.replace("epochs: 4, ", "").replace("[0, 1, 2]", "[4]")
    fake_sweep(tmp_path / "missing", by_default, lambda trial: None)
    (chapter,), _ = chapters(sweep_folder, tmp_path / "longer", tmp_path / "missing")
    assert chapter.axes == ("width", "epochs")
    assert chapter.values("epochs") == [4, 8, 300]


def test_a_label_whose_k_differs_elsewhere_is_told_apart_whatever_the_seeds(tmp_path):
    recipe = "grid: {methods: [{label: W̃⊥, method: wperp, k: 10}], seed: [0]}\n"
    fake_sweep(tmp_path / "a", recipe)
    fake_sweep(tmp_path / "b", recipe.replace("k: 10", "k: 25").replace("[0]", "[1]"))
    (chapter,), _ = chapters(tmp_path / "a", tmp_path / "b")
    assert chapter.labels == ["W̃⊥", f"W̃⊥ ({tmp_path / 'b'})"]


def test_the_order_is_that_of_the_sweep(tmp_path):
    folder = fake_sweep(tmp_path / "a", "grid: {methods: [wt], width: [128, 64]}\n")
    assert chapters(folder)[0][0].values("width") == [128, 64]
    fake_sweep(tmp_path / "b", "grid: {methods: [wperp], width: [32]}\n")
    assert chapters(folder, tmp_path / "b")[0][0].values("width") == [32, 64, 128]


def test_a_search_of_the_learning_rate_makes_no_axis_of_it_and_is_told(tmp_path):
    recipe = """
    grid: {methods: [wt, {label: fast, method: wt}], seed: [0]}
    tune: {lr: [0.1, 0.2]}
    """
    folder = fake_sweep(tmp_path / "sweep", recipe)
    run = folder / "trials" / "fast-seed0" / "recipe.yaml"
    run.write_text(run.read_text().replace("lr: 0.0001", "lr: 0.2"))
    rows = [{"label": "wt", "axes": {"width": 64}, "lr": 0.1}, {"label": "fast", "axes": {}, "lr": None}]
    (folder / "tuned.json").write_text(to_json({"schema": 1, "by": "train_loss", "rows": rows}))
    (chapter,), _ = chapters(folder)
    assert {trial.keys["lr"] for trial in chapter.trials} == {0.0001, 0.2}
    assert chapter.axes == ()
    assert chapter.description == (
        "Learning rates, by the same search for all (train_loss): wt, width 64 0.1; fast none.\n"
        "The same in all runs: dataset mnist1d, model mlp, width 64, epochs 4, batch size 512, optimizer adamw."
    )


def test_a_repeated_run_is_left_out_and_named_unless_another_machine_made_it(tmp_path):
    runs = tmp_path / "runs"
    fake_run(runs / "a")
    fake_run(runs / "b")
    fake_run(runs / "c", environment={"device_name": "A card"})
    fake_run(runs / "0-killed", finished=False)
    (chapter,), (killed, again) = chapters(runs)
    assert chapter.labels == ["wt", "wt on A card, 1 thread"]
    assert [trial.name for trial in chapter.trials] == ["a", "c"]  # the finished one stands in for the killed
    assert killed == (str(runs / "0-killed"), f"the same recipe as {runs / 'a'}; left out, as it says nothing new")
    assert again == (str(runs / "b"), f"the same recipe as {runs / 'a'}; left out, as it says nothing new")


def copied(original: Path, to: Path) -> Path:
    shutil.copytree(original, to)
    return to


def test_a_copied_sweep_is_left_out_and_listed(sweep_folder, tmp_path):
    runs = tmp_path / "runs"
    copied(sweep_folder, runs / "a")
    before = compose([runs])
    copied(runs / "a", runs / "b")
    document = compose([runs])
    assert document.problems == (Problem(str(runs / "b"), f"a copy of {runs / 'a'}; what both have is {NOTHING_NEW}"),)
    assert as_csv(document) == as_csv(before)  # labels, numbers of runs and Holm's correction


def test_of_a_run_and_its_copy_the_one_that_bears_its_own_name_is_kept(tmp_path):
    """Also where that name is no text, and comes after the copy's."""
    runs, name = tmp_path / "runs", os.fsdecode(b"caf\xe9")
    fake_run(runs / name, result={"run_dir": f"elsewhere/{name}"})
    shutil.copytree(runs / name, runs / "a copy")
    document = compose([runs])
    (problem,) = document.problems
    assert problem.path == str(runs / "a copy")
    assert [trial.run.path.name for trial in document.trials if trial.run] == [name]


def test_a_sweep_that_went_on_beside_its_copy_is_one_sweep(sweep_folder, tmp_path):
    """The copy is of an earlier state, and has one trial more of its own."""
    runs = tmp_path / "runs"
    original = copied(sweep_folder, runs / "a")
    whole = as_csv(compose([original]))
    copy = copied(original, runs / "b")
    for name in ("wt-width64-seed2", "wperp-width64-seed1"):
        shutil.rmtree(copy / "trials" / name)
    (copy / "trials" / "wt-width64-seed1" / "result.json").unlink()
    assert as_csv(compose([runs])) == whole
    shutil.rmtree(original / "trials" / "wt-width128-seed0")
    document = compose([runs])
    assert as_csv(document).replace("/b/", "/a/") == whole
    assert len(document.problems) == 1


def test_a_trial_copied_out_of_its_sweep_is_no_row_of_its_own(sweep_folder, tmp_path):
    before = as_csv(compose([sweep_folder]))
    copy = copied(sweep_folder / "trials" / "wt-width64-seed0", tmp_path / "copy")
    document = compose([sweep_folder, copy])
    assert as_csv(document) == before
    assert [(one.path, NOTHING_NEW in one.reason) for one in document.problems] == [(str(copy), True)]


def test_a_sweep_run_twice_with_other_numbers_is_shown_twice(sweep_folder, tmp_path):
    again = fake_sweep(tmp_path / "again", SWEEP, lambda trial: accuracy(trial) + 0.001)
    table = next(item for item in compose([sweep_folder, again]).items if isinstance(item, Table))
    labels = {cell.trials[0].label for row in table.rows for cell in row.cells}
    assert labels == {"W̃ᵀ", "W̃⊥", f"W̃ᵀ ({again})", f"W̃⊥ ({again})"}
