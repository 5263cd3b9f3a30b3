import json
from pathlib import Path

import pytest
from tiny_runs import FLAGS, Stopper, fg, run

TRAIN = [flag for flag in FLAGS if flag not in ("--epochs", "4")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shared_cache):
    """A finished run with checkpoints of epochs 1, 3 and 4."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FG_CACHE_DIR", str(shared_cache))
        path = tmp_path_factory.mktemp("runs") / "run"
        run(path, keep_checkpoints=[1])
    return path


def found(*arguments):
    done = fg("analyze-overlap", *map(str, arguments), "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refusal(*arguments):
    done = fg("analyze-overlap", *map(str, arguments))
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    assert done.stderr.startswith("fg: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_every_k_of_every_layer_with_errors_over_batches(trained):
    content = found(trained, "--batches", 3)
    (one,) = content["overlaps"]
    assert (one["basis"], one["trained_by"], one["epoch"], one["step"], one["width"]) == ("upstream", "wt", 4, 12, 8)
    assert [layer["layer"] for layer in one["layers"]] == ["hidden1", "hidden2"]
    for layer in one["layers"]:
        assert layer["k"] == list(range(1, 9))
        assert layer["overlap"]["mean"][-1] == pytest.approx(1)
        assert all(error is not None for error in layer["overlap"]["standard_error"])
        assert len(layer["squared"]["mean"]) == 8


def test_chosen_checkpoints_and_several_bases(trained):
    content = found(trained, "--epochs", "1,3", "--basis", "shared", "--basis", "random", "--batches", 1)
    assert [(one["epoch"], one["basis"]) for one in content["overlaps"]] == [
        (1, "shared"), (1, "random"), (3, "shared"), (3, "random"),
    ]  # fmt: skip
    assert content["overlaps"][0]["layers"][0]["overlap"]["standard_error"][0] is None
    assert content["overlaps"][0]["layers"][0]["overlap"] != content["overlaps"][2]["layers"][0]["overlap"]


@pytest.mark.parametrize("basis", ["hessian", "gauss-newton"])
def test_eigenvectors_in_weights(trained, basis):
    (one,) = found(trained, "--basis", basis, "--batches", 1, "--max-k", 3)["overlaps"]
    assert [layer["layer"] for layer in one["layers"]] == [
        "hidden1.weight",
        "hidden2.weight",
        "output.weight",
        "network",
    ]
    assert all(layer["k"] == [1, 2, 3] for layer in one["layers"])


def test_table_has_curves_and_the_control_its_expectation(trained):
    shown = fg("analyze-overlap", str(trained), "--basis", "upstream", "--basis", "random", "--batches", "2").stdout
    assert "overlap with basis upstream, wt of width 8 at epoch 4" in shown
    assert "±" in shown
    assert "█" in shown
    assert "√(k/d)" in shown
    assert f"{(5 / 8) ** 0.5:.3f}" in shown


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figure_is_the_same_each_time(trained, workplace, suffix):
    for name in ("a", "b"):
        done = fg("analyze-overlap", str(trained), "--batches", "2", "--plot", f"{name}.{suffix}")
        assert f"figure written to {name}.{suffix}" in done.stdout
    first = Path(f"a.{suffix}").read_bytes()
    assert len(first) > 1000
    assert first == Path(f"b.{suffix}").read_bytes()


def test_an_interrupted_run_will_do(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stopper(7))
    assert found(tmp_path / "stopped", "--batches", 1)["overlaps"][0]["step"] == 6


def test_trains_first_where_no_run_is_given(workplace):
    done = fg("analyze-overlap", *TRAIN, "--method", "wperp", "--k", "3", "--epochs", "1,3", "--out", "new", "--json")
    content = json.loads(done.stdout)
    assert [(one["trained_by"], one["epoch"]) for one in content["overlaps"]] == [("wperp", 1), ("wperp", 3)]
    assert json.loads(Path("new/result.json").read_text())["epochs"] == 3
    again = found("new", "--epochs", "1,3")
    assert [one["layers"] for one in again["overlaps"]] == [one["layers"] for one in content["overlaps"]]


def test_run_is_only_read(trained):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    found(trained, "--batches", 1)
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_batch_size_of_the_look_is_free_and_epochs_are_still_the_runs(trained):
    (one,) = found(trained, "--batch-size", 5, "--threads", 1, "--batches", 1, "--epochs", 3)["overlaps"]
    assert (one["batch_size"], one["epoch"], one["step"]) == (5, 3, 9)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--basis upstrem", "--basis: unknown kind 'upstrem' of basis; did you mean 'upstream'?"),
        ("--batches 0", "--batches is 0; it must be at least 1"),
        ("--max-k 0", "--max-k is 0; it must be at least 1"),
        ("--max-k 9", "--max-k is 9; it must be at most 8, the largest rank of an upstream Jacobian"),
        ("--basis hessian --max-k 9999", "--max-k is 9999; it must be at most 464, the number of parameters"),
        ("--epochs 2", "has no checkpoint of epoch 2; it has those of epochs 1, 3, 4"),
        ("--epochs 0", "--epochs is 0, with '0' in it; it must be whole numbers from 1 up"),
        ("--epochs 1,last", "--epochs is 1,last, with 'last' in it"),
        ("--plot figure.jpg", "--plot is figure.jpg; its name must end in .png, .svg, .pdf"),
        ("--width 16", "--width says what to train, and a run is given too; leave one of them out"),
        ("--batch-size 81", "--batch-size is 81; it must be at most 80"),
    ],
)
def test_bad_input(trained, flags, said):
    assert said in refusal(trained, *flags.split())


def test_runs_that_cannot_be_looked_at(tmp_path, trained):
    assert "holds no run" in refusal(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "early", Stopper(1))
    assert "has no checkpoint yet" in refusal(tmp_path / "early")


def copy(trained, path):
    for file in trained.rglob("*"):
        if file.is_file():
            target = path / file.relative_to(trained)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return path


def test_method_that_this_installation_does_not_know_is_named_with_its_plugin(tmp_path, trained):
    path = copy(trained, tmp_path / "theirs")
    recipe = path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("method: wt", "method: theirs"))
    environment = json.loads((path / "environment.json").read_text())
    assert environment["plugins"]["method"].startswith("fgcli ")
    environment["plugins"]["method"] = "their-plugin 1.0"
    (path / "environment.json").write_text(json.dumps(environment))
    said = refusal(path)
    assert "unknown method 'theirs'" in said
    assert "the run was begun with their-plugin 1.0, which is not in use" in said
    (path / "environment.json").unlink()
    assert "begun with" not in refusal(path)


def test_checkpoint_of_another_architecture(tmp_path, trained):
    path = copy(trained, tmp_path / "other")
    recipe = path / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("width: 8", "width: 9"))
    assert "was written under another recipe" in refusal(path)


def test_checkpoint_whose_tensors_are_of_another_model(tmp_path, trained, monkeypatch):
    from fgcli.training.checkpoints import CheckpointStore

    path = copy(trained, tmp_path / "other")
    load = CheckpointStore.load

    def other_model(self, step):
        checkpoint = load(self, step)
        checkpoint.tensors["model.hidden1.weight"] = checkpoint.tensors["model.hidden1.weight"][:4]
        return checkpoint

    monkeypatch.setattr(CheckpointStore, "load", other_model)
    assert "is of another model: hidden1.weight differs in shape" in refusal(path)
