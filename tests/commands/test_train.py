import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import FLAGS, Stopper, fg, rows, run, untimed

from fgcli.recipe import read_recipe
from fgcli.recipe_keys import section_keys

RESULT_KEYS = {
    "method", "options", "dataset", "width", "depth", "k", "seed", "epochs", "steps", "train_accuracy", "test_accuracy",
    "train_loss", "test_loss", "wall_s", "step_ms_median", "step_ms_quartiles", "peak_memory_bytes", "device",
    "threads", "run_dir",
}  # fmt: skip


def written(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_run_directory_and_table(workplace):
    done = fg("train", *FLAGS, "--out", "run", "--bias")
    assert done.exit_code == 0, done.output
    names = {path.name for path in (workplace / "run").iterdir()}
    files = {"recipe.yaml", "environment.json", "model.json", "metrics.jsonl", "result.json", "lock"}
    assert names == files | {"checkpoints"}
    result = json.loads(Path("run/result.json").read_text())
    for shown in (
        "wt on mnist1d, width 8, depth 2, seed 0",
        f"{result['train_accuracy']:.4f}",
        f"{result['test_loss']:.4f}",
        f"{result['wall_s']:.1f} s",
        f"{result['step_ms_median']:.2f} ms median",
        "peak memory",
        "run directory  run",
    ):
        assert shown in done.stdout
    environment = json.loads(Path("run/environment.json").read_text())
    assert environment["threads"] == 1
    assert {"fg", "python", "torch", "numpy", "device", "device_name", "git_commit"} <= environment.keys()


def test_a_line_for_each_evaluation_where_there_is_no_terminal():
    done = fg("train", *FLAGS, "--out", "run")
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert len(lines) == 4
    last = rows(Path("run"))[-1]
    assert lines[-1].startswith("step 12/12  epoch 4 ")
    assert f"train loss {last['train_loss']:.4f} accuracy {last['train_accuracy']:.3f}" in lines[-1]
    assert "\x1b" not in done.output


def test_json_is_the_result_and_nothing_else_on_stdout():
    done = fg("train", *FLAGS, "--method", "backprop", "--json", "--out", "run")
    result = json.loads(done.stdout)
    assert result == json.loads(Path("run/result.json").read_text())
    assert result.keys() >= RESULT_KEYS
    assert (result["method"], result["width"], result["steps"], result["run_dir"]) == ("backprop", 8, 12, "run")
    assert "step 12/12" in done.stderr


def test_quiet_says_nothing():
    assert fg("train", *FLAGS, "--quiet", "--out", "run").output == ""


def test_without_out_each_run_has_a_fresh_folder(workplace):
    for _ in range(2):
        assert fg("train", *FLAGS, "--quiet", "--max-steps", "1").exit_code == 0
    folders = list((workplace / "runs").iterdir())
    assert len(folders) == 2
    assert all(folder.name.startswith("wt-mnist1d-w8-s0-2") for folder in folders)


def test_written_recipe_runs_again_to_the_same_numbers():
    first = json.loads(fg("train", *FLAGS, "--seed", "5", "--json", "--out", "first").stdout)
    again = json.loads(fg("train", "--recipe", "first/recipe.yaml", "--json", "--out", "again").stdout)
    assert untimed(first) == untimed(again)
    assert Path("first/recipe.yaml").read_text() == Path("again/recipe.yaml").read_text()


def test_flags_override_the_recipe_and_the_rest_of_it_holds():
    Path("mine.yaml").write_text("method: backprop\nepochs: 2\nlr: 0.5\nmodel_options: {activation: tanh}\n")
    done = fg(
        "train", "--recipe", "mine.yaml", *FLAGS, "--model-option", "activation=gelu", "--json", "--max-steps", "2"
    )
    result = json.loads(done.stdout)
    assert (result["method"], result["lr"], result["model_options"]) == ("backprop", 0.01, {"activation": "gelu"})


def test_numbers_are_read_as_in_a_recipe():
    done = fg("train", *FLAGS, "--width", "1e1", "--epochs", "010", "--max-steps", "1", "--json")
    result = json.loads(done.stdout)
    assert (result["width"], result["epochs"]) == (10, 10)


def test_options_that_are_lists():
    flags = ["--optimizer-option", "betas=[0.5, 0.75]", "--dataset-option", "padding=[36, 50]", "--out", "run"]
    result = json.loads(fg("train", *FLAGS, *flags, "--json").stdout)
    assert (result["optimizer_options"]["betas"], result["dataset_options"]["padding"]) == ([0.5, 0.75], [36, 50])
    again = json.loads(fg("train", "--recipe", "run/recipe.yaml", "--json").stdout)
    assert untimed(again) == untimed(result)


def test_lists_by_commas():
    flags = ["--diagnostics", "bias, overlap", "--keep-checkpoints", "1,2", "--keep-last", "1", "--out", "run"]
    result = json.loads(fg("train", *FLAGS, *flags, "--json").stdout)
    assert (result["diagnostics"], result["keep_checkpoints"]) == (["bias", "overlap"], [1, 2])
    assert result["keep_last"] == 1
    assert Path("run/diagnostics.jsonl").exists()


def test_shipped_recipe_by_its_name():
    done = fg("train", "--recipe", "quickstart", *FLAGS, "--max-steps", "1", "--json")
    assert json.loads(done.stdout)["feedback"] == "local"


@pytest.mark.parametrize("k", ["3", "rank"])
def test_k_is_a_number_or_rank(k):
    done = fg("train", *FLAGS, "--method", "wperp", "--k", k, "--max-steps", "1", "--json")
    assert json.loads(done.stdout)["k"] == (3 if k == "3" else "rank")


BAD = {
    "method": ("--method wperb", "unknown method 'wperb'; did you mean 'wperp'? known methods: "),
    "dataset": ("--dataset mnist", "unknown dataset 'mnist'; did you mean 'mnist1d'? known datasets: digits, mnist-5k"),
    "model": ("--model mpl", "unknown model 'mpl'; did you mean 'mlp'?"),
    "optimizer": ("--optimizer adamm", "unknown optimizer 'adamm'; did you mean"),
    "option": ("--method wperp --option solvr=svd", "unknown option 'solvr' of method wperp; did you mean 'solver'?"),
    "option value": ("--method wperp --option solver=qr", "--option solver is "),
    "option syntax": ("--option solver", "--option is 'solver'; it must be key=value"),
    "dataset option": ("--dataset-option sed=1", "unknown option 'sed' of dataset mnist1d; did you mean 'seed'?"),
    "model option": ("--model-option activation=rely", "fg: --model-option activation is "),
    "optimizer option": (
        "--optimizer-option beta=1",
        "unknown option 'beta' of optimizer adamw; did you mean 'betas'?",
    ),
    "recipe key": ("--recipe bad.yaml", "bad.yaml:2:1: unknown recipe key 'widht'; did you mean 'width'?"),
    "recipe value": ("--recipe zero.yaml", "zero.yaml:1:9: epochs is 0; it must be at least 1"),
    "recipe name": ("--recipe quickstrat", "--recipe: unknown recipe 'quickstrat'; did you mean 'quickstart'?"),
    "recipe file": ("--recipe none.yaml", "none.yaml cannot be read: No such file"),
    "width": ("--width 0", "--width is 0; it must be at least 1"),
    "depth": ("--depth 0", "--depth is 0; it must be at least 1"),
    "batch": ("--batch-size 0", "--batch-size is 0; it must be at least 1"),
    "large batch": ("--batch-size 81", "--batch-size is 81; it must be at most 80, the training samples of mnist1d"),
    "epochs": ("--epochs 0", "--epochs is 0; it must be at least 1"),
    "max steps": ("--max-steps 0", "--max-steps is 0; it must be at least 1"),
    "eval every": ("--eval-every 0", "--eval-every is 0; it must be at least 1"),
    "keep last": ("--keep-last 0", "--keep-last is 0; it must be at least 1"),
    "threads": ("--threads 0", "--threads is 0; it must be at least 1"),
    "seed": ("--seed -1", "--seed is -1; it must be at least 0"),
    "threads beyond all machines": ("--threads 100000", "--threads is 100000; it must be at most 1024"),
    "no whole number": ("--width 1.5", "--width is 1.5; it must be a whole number"),
    "no number": ("--epochs many", "--epochs is 'many'; it must be a whole number"),
    "nothing": ("--seed=", "--seed is ''; it must be a whole number"),
    "list too short": ("--dataset-option padding=[1]", "--dataset-option padding[1] is missing"),
    "list of another kind": ("--optimizer-option betas=[0.9,x]", "--optimizer-option betas[1] is 'x'"),
    "k": ("--method wperp --k 0", "--k is 0"),
    "k name": ("--method wperp --k all", "--k is 'all'"),
    "k above width": ("--method wperp --k 9", "--k is 9; it must be at most the width, 8"),
    "k of a method without": ("--k 3", "--k is given, but method wt has no option k"),
    "lr 0": ("--lr 0", "--lr is 0"),
    "lr negative": ("--lr -1", "--lr is -1"),
    "lr nan": ("--lr nan", "--lr is 'nan'; it must be a finite number"),
    "lr inf": ("--lr inf", "--lr is 'inf'; it must be a finite number"),
    "loss": (
        "--loss mes",
        "unknown loss 'mes'; did you mean 'mse'? known losses: bce, cross-entropy, error-rate, mse; one of",
    ),
    "loss for other targets": (
        "--loss mse",
        "loss mse takes targets that are numbers; those of dataset 'mnist1d' are 10 classes: use --loss cross-entropy",
    ),
    "loss option": ("--loss-option beta=1", "unknown option 'beta' of loss cross-entropy; there are none"),
    "clip norm 0": ("--clip-norm 0", "--clip-norm is 0; it must be above 0"),
    "clip norm negative": ("--clip-norm -1", "--clip-norm is -1; it must be above 0"),
    "schedule": ("--lr-schedule cosin", "unknown lr_schedule 'cosin'; did you mean 'cosine'?"),
    "schedule without what it needs": ("--lr-schedule step", "option step_size of lr_schedule step is missing"),
    "schedule option": (
        "--lr-schedule linear-warmup --lr-schedule-option steps=0",
        "--lr-schedule-option steps is 0; it must be at least 1",
    ),
    "device": ("--device cuda:99", "device cuda:99 is absent; present: "),
    "device name": ("--device gpu", "unknown device 'gpu'; it must be auto, cpu, cuda, cuda:N or mps"),
    "diagnostics": ("--diagnostics bais", "--diagnostics[0] is 'bais'"),
    "diagnostics of backprop": ("--method backprop --diagnostics bias", "only overlap can be recorded with it"),
    "diagnostics every": ("--diagnostics-every 0", "--diagnostics-every is 0; it must be at least 1"),
    "subspace": ("--subspace top", "--subspace is 'top'"),
    "subspace k": ("--subspace dominant --subspace-k 0", "--subspace-k is 0; it must be at least 1"),
    "kept checkpoints": ("--keep-checkpoints 1,x", "--keep-checkpoints[1] is 'x'"),
    "out of another kind": ("--out other", "--out other is not an empty folder"),
    "out is a file": ("--out bad.yaml", "--out bad.yaml is not an empty folder"),
    "nothing to resume": ("--resume other", "no run: there is no file other/recipe.yaml; give the folder of a run"),
    "out and resume": ("--out a --resume b", "--out and --resume are both given"),
}


@pytest.mark.parametrize(("flags", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_written(workplace, flags, said):
    Path("bad.yaml").write_text("method: wt\nwidht: 8\n")
    Path("zero.yaml").write_text("epochs: 0")
    Path("other").mkdir()
    Path("other/thesis.tex").touch()
    before = written(workplace)
    base = FLAGS if not {"resume", "recipe"} & {flag.strip("-") for flag in flags.split()} else []
    done = fg("train", *base, *flags.split())
    assert done.exit_code == 2
    assert done.stdout == ""
    assert said in done.stderr
    assert done.stderr.startswith("fg: ")
    assert done.stderr.count("\n") == 1
    assert written(workplace) == before


def test_out_that_holds_a_run_is_refused(workplace):
    run(Path("finished"))
    with pytest.raises(KeyboardInterrupt):
        run(Path("unfinished"), Stopper(4))
    before = written(workplace)
    done = fg("train", *FLAGS, "--out", "finished")
    assert (done.exit_code, written(workplace)) == (2, before)
    assert "--out finished holds a finished run; give a new folder" in done.stderr
    done = fg("train", *FLAGS, "--out", "unfinished")
    assert (done.exit_code, written(workplace)) == (2, before)
    assert "holds an unfinished run; go on with --resume unfinished" in done.stderr
    done = fg("train", "--resume", "finished")
    assert (done.exit_code, written(workplace)) == (2, before)
    assert "this run is finished" in done.stderr


def test_resume_ends_as_the_uninterrupted_run():
    whole = json.loads(fg("train", *FLAGS, "--json", "--out", "whole").stdout)
    with pytest.raises(KeyboardInterrupt):
        run(Path("stopped"), Stopper(7))
    done = fg("train", "--resume", "stopped", "--json")
    assert untimed(json.loads(done.stdout)) == untimed(whole)
    assert "goes on after step 6" in done.stderr


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ("--width 9", "width is 9, but the run's recipe has 8"),
        ("--method backprop", "method is backprop, but the run's recipe has wt"),
        ("--option uncovered=freeze", "options.uncovered is freeze, but the run's recipe has perturb"),
        ("--model-option activation=tanh", "model_options.activation is tanh, but the run's recipe has relu"),
        ("--epochs 5", "epochs is 5, but the run's recipe has 4"),
        ("--recipe other.yaml", "method is backprop, but the run's recipe has wt"),
        (
            "--lr 0.5 --option uncovered=freeze",
            "options.uncovered is freeze, but the run's recipe has perturb; lr is 0.5, ",
        ),
    ],
)
def test_resume_with_another_recipe_is_refused(workplace, flags, key):
    with pytest.raises(KeyboardInterrupt):
        run(Path("stopped"), Stopper(4))
    Path("other.yaml").write_text("method: backprop\n")
    Path("stopped/lock").write_text("process 1 on elsewhere\n")
    before = {path: path.read_bytes() for path in written(workplace) if path.is_file()}
    done = fg("train", "--resume", "stopped", *flags.split())
    assert done.exit_code == 2
    assert f"--resume stopped: {key}" in done.stderr
    assert {path: path.read_bytes() for path in written(workplace) if path.is_file()} == before


def test_resume_with_another_method_says_the_command_of_a_new_run():
    with pytest.raises(KeyboardInterrupt):
        run(Path("stopped"), Stopper(4))
    said = fg("train", "--resume", "stopped", "--method", "backprop").stderr
    assert "once it is finished, more --epochs or --max-steps: leave it out, or a new run: fgcli train --init" in said
    printed = shlex.split(said.rpartition("a new run: ")[2])
    done = fg(*printed[1:], "--quiet", "--threads", "1", "--out", "new")
    assert (done.exit_code, done.stderr) == (0, "")
    here, there = (read_recipe(f"{name}/recipe.yaml").data for name in ("stopped", "new"))
    differ = {key for key in here if here[key] != there[key]}
    assert {"method", "init_from"} <= differ <= {"init_from", *section_keys("method")}


@pytest.mark.parametrize(
    ("flags", "new"),
    [
        ("--method wperp --k 2 --option shrinkage=0.5 --max-steps 9", {"method": "wperp", "k": 2, "max_steps": 9}),
        ("--option uncovered=freeze --max-steps 9", {"max_steps": 9}),
        ("--width 9 --lr 0.5 --max-steps 9", {"width": 9, "lr": 0.5, "max_steps": 9}),
    ],
)
def test_the_command_of_a_new_run_has_all_that_is_given(flags: str, new: dict[str, object]) -> None:
    assert fg("train", *FLAGS, "--quiet", "--out", "finished").exit_code == 0
    printed = shlex.split(fg("train", "--resume", "finished", *flags.split()).stderr.rpartition("a new run: ")[2])
    assert ("--init-from" in printed) == ("--width" not in flags)  # whose weights do not fit
    assert fg(*printed[1:], "--quiet", "--out", "new").exit_code == 0
    data: dict[str, Any] = dict(read_recipe("new/recipe.yaml").data)
    assert {key: data[key] for key in new} == new
    options = dict(one.split("=") for one in flags.split() if "=" in one)
    assert {key: str(data["options"][key]) for key in options} == options


@pytest.mark.parametrize("flags", [["--device", "auto"], ["--width", "8", "--seed", "0"], ["--recipe", "same.yaml"]])
def test_resume_with_the_same_recipe_goes_on(flags):
    with pytest.raises(KeyboardInterrupt):
        run(Path("stopped"), Stopper(4))
    text = Path("stopped/recipe.yaml").read_text()
    Path("same.yaml").write_text(text.replace("device: cpu", "device: auto").replace("threads: 1", "threads: null"))
    done = fg("train", "--resume", "stopped", *flags)
    if "auto" in flags or "--recipe" in flags:
        assert done.exit_code == 0, done.output
    assert Path("stopped/result.json").exists()


def test_not_finite_is_exit_1_and_one_line():
    flags = ["--method", "backprop", "--optimizer", "sgd", "--lr", "1e30", "--eval-every", "2", "--out", "run"]
    done = fg("train", *FLAGS, *flags)
    assert done.exit_code == 1
    assert done.stderr.startswith("fg: the loss is not finite in step 2; stopped before the update (seed 0, run; ")
    assert done.stderr.count("\n") == 1
    assert not Path("run/result.json").exists()
