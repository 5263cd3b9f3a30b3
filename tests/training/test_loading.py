"""A trained network, from its run: the weights and preprocessing that were trained with, or a refusal."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tiny_runs import fg, run

from fgcli import RunError, Standardise, UsageError, load_model, read_run
from fgcli.data.digits import digits
from fgcli.data.options import SplitOptions

DIGITS = {"dataset": "digits", "dataset_options": {}, "batch_size": 512, "epochs": 2, "method": "backprop"}
PLUGIN = '''
import torch

from fgcli import Dataset, Entry, Options, Standardise, hookimpl
from pydantic import Field

FG_CONTRACT = 2


class PetOptions(Options):
    names: list[str] = Field(default=["cat", "dog"], description="The classes.")
    offset: float = Field(default=10.0, description="Added to every number of the raw inputs.")
    shape: list[int] = Field(default=[4], description="Of an input.")
    numbers: bool = Field(default=False, description="Targets are numbers.")


@hookimpl
def fg_datasets():
    return [Entry("pets", "animals_plugin:pets", "Two classes that are told by the first number.", PetOptions)]


def pets(options):
    """A class has its own place, whatever its number is."""
    order = {"cat": -1.0, "dog": 1.0, "emu": 3.0}
    targets = torch.arange(60) % len(options.names)
    places = torch.tensor([order[name] for name in options.names])[targets]
    raw = torch.zeros(60, *options.shape) + places.reshape(60, *[1] * len(options.shape)) + options.offset
    step = Standardise(raw[:40].mean(), raw[:40].std())
    if options.numbers:
        targets = targets.float()
    inputs, names = step(raw), tuple(options.names)
    classes = 1 if options.numbers else len(names)
    return Dataset("pets", inputs[:40], targets[:40], inputs[40:], targets[40:], classes, step, names)
'''


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    run(tmp_path / "run", **DIGITS)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the plugin, with a run on cats and dogs beside it."""
    file = tmp_path_factory.mktemp("plugin") / "animals_plugin.py"
    file.write_text(PLUGIN)
    flags = ["--method=backprop", "--dataset=pets", "--lr=0.1", "--batch-size=20", "--epochs=3", "--width=8"]
    flags += ["--depth=1", "--bias", f"--plugin={file}", f"--out={file.parent / 'run'}", "--quiet", "--threads=1"]
    done = fg("train", *flags)
    assert done.exit_code == 0, done.output
    return file


@pytest.fixture
def pets(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The run in this folder, and the flag of its plugin."""
    shutil.copytree(plugin.parent / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    return ["--plugin", str(plugin)]


def raw_digits() -> tuple[torch.Tensor, torch.Tensor]:
    data = digits(SplitOptions())
    return data.preprocessing.undo(data.test_inputs), data.test_targets


def test_the_loaded_model_gives_the_recorded_numbers_from_raw_inputs(trained: Path) -> None:
    model = load_model(trained)
    raw, targets = raw_digits()
    assert (raw.min().round(), raw.max().round()) == (0, 16)  # pixels, as scikit-learn has them
    with torch.no_grad():
        accuracy = (model(raw).argmax(1) == targets).float().mean().item()
    recorded = json.loads((trained / "result.json").read_text())
    assert accuracy == pytest.approx(recorded["test_accuracy"], abs=1e-6)
    assert recorded["test_accuracy"] > 0.2
    assert isinstance(model, torch.nn.Module)
    assert not model.training
    assert "(preprocessing): Standardise(as (x - 4." in repr(model)


def test_it_is_the_network_and_not_the_data_that_is_needed(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_model(trained)
    monkeypatch.setattr("fgcli.data.digits.digits", lambda options: pytest.fail("the data are not needed"))
    found = load_model(str(trained))
    assert all(
        torch.equal(a, b) for a, b in zip(found.state_dict().values(), expected.state_dict().values(), strict=True)
    )


def test_what_cannot_be_loaded_is_said(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no run: there is no file .*recipe\.yaml"):
        load_model(tmp_path / "nothing")
    model_file, content = trained / "model.json", json.loads((trained / "model.json").read_text())
    model_file.unlink()
    with pytest.raises(RunError, match=r"cannot read .*model\.json: No such file"):
        load_model(trained)
    model_file.write_text(json.dumps({**content, "mean": ["x"]}))
    with pytest.raises(RunError, match=r"model\.json is damaged"):
        load_model(trained)
    model_file.write_text(json.dumps({**content, "outputs": 11}))
    with pytest.raises(RunError, match=r"no usable checkpoint .* is of another model: output\.weight differs"):
        load_model(trained)
    model_file.write_text(json.dumps(content))
    for file in (trained / "checkpoints").iterdir():
        file.unlink()
    with pytest.raises(UsageError, match="has no checkpoint yet; train it on, or give another run"):
        load_model(trained)


def test_changed_code_of_ones_own_is_warned_of(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "net.py").write_text("changed")
    environment = json.loads((trained / "environment.json").read_text())
    environment["code"] = {"net": {"file": str(tmp_path / "net.py"), "sha256": "before"}}
    (trained / "environment.json").write_text(json.dumps(environment))
    with caplog.at_level(logging.WARNING, "fgcli"):
        load_model(trained)
    assert "net.py has changed since" in caplog.text
    caplog.clear()
    now = hashlib.sha256(b"changed").hexdigest()[:12]
    environment["went_on"] = [{"after_step": 3, "module net": now}]  # told then, and the run is of both
    (trained / "environment.json").write_text(json.dumps(environment))
    load_model(trained)
    assert not caplog.text


def test_evaluate_says_what_the_run_recorded(trained: Path) -> None:
    done = fg("evaluate", str(trained), "--json", "--device", "cpu")
    assert done.exit_code == 0, done.output
    found, recorded = json.loads(done.stdout), json.loads((trained / "result.json").read_text())
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    assert {name: found[name] for name in names} == {name: recorded[name] for name in names}
    table = fg("evaluate", str(trained)).stdout
    assert f"{recorded['test_accuracy']:.4f}" in table
    assert "run after step 6, on digits\n" in table


def test_other_data_are_standardised_as_the_runs_own_and_their_classes_matched_by_name(pets: list[str]) -> None:
    own = json.loads(fg("evaluate", "run", *pets, "--json").stdout)
    assert own["test_accuracy"] == 1
    swapped = fg("evaluate", "run", *pets, "--dataset-option", "names=[dog,cat]", "--json")
    assert json.loads(swapped.stdout)["test_accuracy"] == 1
    # The same animals 5 further on: by their own mean they would look like the run's.
    moved = fg("evaluate", "run", *pets, "--dataset", "pets", "--dataset-option", "offset=15", "--json")
    assert json.loads(moved.stdout)["test_accuracy"] == 0.5
    assert "holds other samples" not in own.__repr__() + moved.stderr


def test_without_the_plugin_of_its_data_a_run_says_the_command(pets: list[str]) -> None:
    done = fg("evaluate", "run", "--json")
    assert done.exit_code == 2
    assert "unknown dataset 'pets'; " in done.stderr
    assert f"; run was begun with the plugin {pets[1]}, which is not in use: give it once more: " in done.stderr
    assert done.stderr.endswith(f"fgcli evaluate run --json --plugin {pets[1]}\n")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["names=[cat,emu]"], "dataset pets: class 'emu' is none of the network's: cat, dog"),
        (["shape=[2, 2]"], "dataset pets: an input has shape [2, 2], and the network takes [4]"),
        (["numbers=true"], "dataset pets: its targets are numbers, and the network was trained for classes"),
        (["colour=1"], "--dataset-option colour: unknown option 'colour' of dataset pets"),
    ],
)
def test_data_that_do_not_fit_are_refused(pets: list[str], options: list[str], said: str) -> None:
    flags = [flag for option in options for flag in ("--dataset-option", option)]
    done = fg("evaluate", "run", *pets, *flags)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_data_that_have_changed_since_are_warned_of(pets: list[str], caplog: pytest.LogCaptureFixture) -> None:
    environment = json.loads(Path("run/environment.json").read_text())
    Path("run/environment.json").write_text(json.dumps({**environment, "data": "another"}))
    with caplog.at_level(logging.WARNING, "fgcli"):
        assert fg("evaluate", "run", *pets).exit_code == 0
    assert "dataset pets holds other samples than it did when run was begun" in caplog.text


def test_predictions_are_those_of_the_raw_inputs(pets: list[str]) -> None:
    raw = numpy.array([[9] * 4, [11] * 4, [9] * 4], dtype=numpy.uint8)
    numpy.savez("in.npz", inputs=raw)
    done = fg("predict", "run", "in.npz", *pets)
    assert done.exit_code == 0, done.output
    assert done.stdout == "3 predictions written to predictions.npz: outputs [3, 2], classes [3], names [3]\n"
    with numpy.load("predictions.npz") as found:
        assert found["names"].tolist() == ["cat", "dog", "cat"]
        assert found["classes"].tolist() == [0, 1, 0]
        network = load_model("run")  # without the plugin of its data
        with torch.no_grad():
            assert numpy.array_equal(found["outputs"], network(torch.from_numpy(raw)).numpy())
    before = Path("predictions.npz").read_bytes()
    again = fg("predict", "run", "in.npz", *pets)
    assert (again.exit_code, Path("predictions.npz").read_bytes()) == (2, before)
    assert "--out predictions.npz exists; give another name, or remove that file" in again.stderr


BAD_INPUTS: dict[str, tuple[Any, str]] = {
    "shape": ({"inputs": numpy.zeros((3, 5))}, "the inputs have shape [3, 5]; they must be [n, 4], n at least 1"),
    "none": ({"inputs": numpy.zeros((0, 4))}, "the inputs have shape [0, 4]; they must be [n, 4], n at least 1"),
    "NaN": ({"inputs": numpy.array([[0.0] * 4, [numpy.nan] * 4])}, "input 1 is not finite; inputs must be"),
    "text": ({"inputs": numpy.array([["a"] * 4])}, "inputs of in.npz is of type <U1; it must be numbers"),
    "objects": ({"inputs": numpy.array([None])}, "in.npz cannot be read as arrays: it holds Python objects"),
    "names": ({"a": numpy.zeros(3), "b": numpy.zeros(3)}, "in.npz holds a, b; it must hold the array inputs"),
}


@pytest.mark.parametrize(("arrays", "said"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_inputs_that_do_not_fit_are_refused(pets: list[str], arrays: dict[str, Any], said: str) -> None:
    numpy.savez("in.npz", **arrays)
    done = fg("predict", "run", "in.npz", *pets)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path("predictions.npz").exists()


@pytest.mark.parametrize("text", ["", "PK\x03\x04 cut off", "a,b\n1,2\n"])
def test_a_file_that_is_none_of_numpys_is_refused(pets: list[str], text: str) -> None:
    Path("in.npz").write_text(text)
    done = fg("predict", "run", "in.npz", *pets)
    assert done.exit_code == 2
    assert "in.npz cannot be read as arrays" in done.stderr
    Path("predictions.npz").touch()  # which hides no fault of the inputs
    assert (
        fg("predict", "run", "absent.npz", *pets).stderr == "fg: absent.npz cannot be read: No such file or directory\n"
    )


def test_a_table_is_predicted_from_by_its_columns_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [(1.0 * (i % 2), 0.1 * (i % 7), "ab"[i % 2]) for i in range(40)]
    Path("own.csv").write_text("x;y;kind\n" + "".join(f"{x};{y};{kind}\n" for x, y, kind in rows))
    own = {"dataset": "own.csv", "dataset_options": {"delimiter": ";"}, "batch_size": 8, "epochs": 1}
    run(tmp_path / "run", **own, method="backprop")
    Path("new.csv").write_text("y;name;x\n" + "".join(f"{y};new;{x}\n" for x, y, _ in rows[:3]))
    done = fg("predict", "run", "new.csv")
    assert done.exit_code == 0, done.output
    raw = torch.tensor([row[:2] for row in rows[:3]])
    with torch.no_grad(), numpy.load("predictions.npz") as found:
        assert numpy.array_equal(found["outputs"], load_model("run")(raw).numpy())
    Path("new.csv").write_text("y;x\n1;2\n\n1;\n")
    assert fg("predict", "run", "new.csv").stderr.startswith("fg: new.csv: column 'x' is empty in line 4; ")
    said = f"fg: {tmp_path} is a folder; inputs are a file: .npz, .npy, .csv or .parquet\n"
    assert fg("predict", "run", str(tmp_path)).stderr == said
    Path("new.csv").write_text("y;z\n1;2\n")
    said = "fg: new.csv: there is no column 'x', of which run was trained; it has y, z\n"
    assert fg("predict", "run", "new.csv").stderr == said
    for text, said in (
        ("1;2\n", "there is no column 'x', of which run was trained; it has 0, 1; name its columns in its first line"),
        ("x,y\n1,2\n", "there is no column 'x', of which run was trained; it has x,y"),
        ("x;y\n1;\n", "column 'y' is empty in line 2; inputs must be numbers: give numbers, parted by ';'"),
    ):
        Path("new.csv").write_text(text)
        assert fg("predict", "run", "new.csv").stderr == f"fg: new.csv: {said}\n"


def test_a_table_of_one_input_is_predicted_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.csv").write_text("x,kind\n" + "".join(f"{i % 2},{'ab'[i % 2]}\n" for i in range(40)))
    run(tmp_path / "run", dataset="own.csv", dataset_options={}, batch_size=8, epochs=1, method="backprop")
    Path("new.csv").write_text("x\n0\n1\n1\n")
    done = fg("predict", "run", "new.csv")
    assert done.exit_code == 0, done.output
    with numpy.load("predictions.npz") as found:
        assert found["outputs"].shape == (3, 2)
        assert numpy.array_equal(found["outputs"][1], found["outputs"][2])


def test_exported_weights_are_loaded_by_their_own_names(trained: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    file = tmp_path / "net.safetensors"
    done = fg("export", str(trained), "--format", "safetensors", "--out", str(file))
    assert done.exit_code == 0, done.output
    assert "inputs as (x - 4." in done.stdout
    assert ", not in the file\n" in done.stdout
    model = load_model(trained)
    for tensor in (fresh := model.network.state_dict()).values():
        tensor.zero_()
    assert load_file(file).keys() == fresh.keys()
    model.network.load_state_dict(load_file(file))
    expected = load_model(trained).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_an_exported_program_takes_raw_inputs_in_batches_of_any_size(trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.pt2"
    done = fg("export", str(trained), "--format", "torch-export", "--out", str(file))
    assert done.exit_code == 0, done.output
    program = torch.export.load(file).module()
    raw, _ = raw_digits()
    for size in (1, 7):
        assert torch.equal(program(raw[:size]), load_model(trained)(raw[:size]))


def test_an_exported_program_of_a_network_of_tokens_takes_tokens(tmp_path: Path) -> None:
    data, file = tmp_path / "own.jsonl", tmp_path / "net.pt2"
    data.write_text("".join(json.dumps({"text": "ab"[i % 2] * (1 + i % 3), "label": i % 2}) + "\n" for i in range(40)))
    options = {"width": 8, "depth": 1, "model_options": {"heads": 1, "predicts": "class"}}
    few = {"dataset_options": {}, "batch_size": 8, "max_steps": 1, "method": "backprop"}
    run(tmp_path / "run", dataset=str(data), model="gpt-tiny", **options, **few)
    done = fg("export", str(tmp_path / "run"), "--format", "torch-export", "--out", str(file))
    assert done.exit_code == 0, done.output
    program, model = torch.export.load(file).module(), load_model(tmp_path / "run")
    tokens = torch.full((7, *read_run(tmp_path / "run").read_model().input_shape), -1)
    tokens[:, 0] = torch.arange(7)
    for size in (1, 7):
        assert torch.equal(program(tokens[:size]), model(tokens[:size]))


def test_an_onnx_file_gives_the_same_numbers(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    reference = pytest.importorskip("onnx.reference", reason="the extra onnx is not installed")
    file = tmp_path / "net.onnx"
    done = fg("export", str(trained), "--format", "onnx", "--out", str(file))
    assert done.exit_code == 0, done.output
    raw, _ = raw_digits()
    program = reference.ReferenceEvaluator(str(file))
    assert program.input_types_[0].tensor_type.shape.dim[0].dim_param == "batch"
    (found,) = program.run(None, {"inputs": raw[:7].numpy()})
    with torch.no_grad():
        assert numpy.allclose(found, load_model(trained)(raw[:7]).numpy(), atol=1e-5)


def test_what_cannot_be_exported_leaves_no_file(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*flags: str) -> str:
        done = fg("export", str(trained), *flags)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        return done.stderr

    out = tmp_path / "net"
    assert "--format: unknown format 'onxx'; did you mean 'onnx'?" in refused("--format", "onxx", "--out", str(out))
    monkeypatch.setattr("fgcli.extend.extras.find_spec", lambda name: None)
    said = refused("--format", "onnx", "--out", str(out))
    assert said == "fg: --format onnx needs onnx and onnxscript, not installed here: pip install 'fgcli[onnx]'\n"
    said = refused("--format", "torch-export", "--out", f"{out}.bin")
    assert said.endswith("net.bin; for torch-export its name must end in .pt2, which torch.export.load reads\n")
    out.write_text("mine")
    assert "exists; give another name, or remove that file" in refused("--format", "safetensors", "--out", str(out))
    assert out.read_text() == "mine"
    out.unlink()

    def branches(self: torch.nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        return inputs if inputs.sum() > 0 else -inputs

    monkeypatch.setattr("fgcli.training.loading.LoadedModel.forward", branches)
    monkeypatch.setattr("fgcli.extend.extras.find_spec", lambda name: object())
    for format in ("torch-export", "onnx"):
        said = refused("--format", format, "--out", f"{out}.pt2")
        assert f"format {format} cannot hold model mlp: GuardOnDataDependentSymNode: Could not guard on " in said
        assert "--format safetensors has the weights alone" in said
    assert not list(tmp_path.glob("*net*"))


def test_standardising_is_undone() -> None:
    step = Standardise(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0]))
    raw = torch.tensor([[7, 10]])
    assert step(raw).tolist() == [[2.0, 2.0]]
    assert step.undo(step(raw)).tolist() == raw.tolist()
    assert Standardise().extra_repr() == "as they are"
    assert Standardise(-0.5, 2.0).extra_repr() == "as (x + 0.5) / 2"
