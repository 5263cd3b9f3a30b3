"""Losses: their values and shapes, what targets they take, and what a run with each of them reports."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import served
import torch
import torch.nn.functional as F
from tiny_runs import FLAGS, fg, rows, untimed
from torch import Tensor

from fgcli.data.dataset import Dataset
from fgcli.errors import UsageError
from fgcli.extend.options import Options
from fgcli.extend.registry import load_registry
from fgcli.training.losses import (
    binary_classification,
    binary_cross_entropy,
    classification,
    cross_entropy,
    error_rate,
    regression,
    squared_error,
    total,
)

OPTIONS = Options()


def dataset(targets: Tensor, classes: int) -> Dataset:
    inputs = torch.zeros(len(targets), 3)
    return Dataset("toy", inputs, targets, inputs, targets, classes)


CLASSES, NUMBERS = dataset(torch.tensor([0, 1, 2]), 3), dataset(torch.tensor([[0.5, -2.0], [1.0, 3.0]]), 2)
TWO, SOFT = dataset(torch.tensor([0, 1]), 2), dataset(torch.tensor([0.25, 1.0]), 1)
MULTI = dataset(torch.tensor([[0.0, 1.0], [1.0, 1.0]]), 2)


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "of_torch"),
    [
        (cross_entropy, torch.randn(4, 3), torch.tensor([0, 2, 1, 1]), F.cross_entropy),
        (squared_error, torch.randn(4, 2), torch.randn(4, 2), F.mse_loss),
        (binary_cross_entropy, torch.randn(4, 2), torch.rand(4, 2), F.binary_cross_entropy_with_logits),
    ],
)
def test_the_mean_over_the_samples_is_torchs(loss: Any, outputs: Tensor, targets: Tensor, of_torch: Any) -> None:
    losses = loss(outputs, targets)
    assert losses.shape == (4,)
    torch.testing.assert_close(losses.mean(), of_torch(outputs, targets))
    # Of several classifiers: the mean of their losses.
    several = torch.stack([outputs, -outputs], dim=2)
    torch.testing.assert_close(loss(several, targets), (losses + loss(-outputs, targets)) / 2)


def test_a_column_of_outputs_meets_targets_without_one() -> None:
    assert squared_error(torch.tensor([[1.0], [2.0]]), torch.tensor([0.0, 4.0])).tolist() == [1.0, 4.0]


@pytest.mark.parametrize(
    ("make", "data", "outputs", "accuracy"),
    [
        (classification, CLASSES, 3, True),
        (regression, NUMBERS, 2, False),
        (binary_classification, TWO, 1, True),
        (binary_classification, MULTI, 2, True),
        (binary_classification, SOFT, 1, False),
        (error_rate, CLASSES, 3, True),
    ],
)
def test_what_an_objective_asks_and_measures(make: Any, data: Dataset, outputs: int, accuracy: bool) -> None:
    objective = make(OPTIONS, data)
    assert objective.outputs == outputs
    assert (objective.correct is not None) == accuracy
    assert objective.loss(torch.zeros(len(data.train_inputs), outputs), data.train_targets).dim() == 1


def test_the_share_of_right_labels() -> None:
    right = binary_classification(OPTIONS, MULTI).correct
    assert right is not None
    assert right(torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]), MULTI.train_targets).tolist() == [1.0, 0.5]
    right = binary_classification(OPTIONS, TWO).correct
    assert right is not None
    assert right(torch.tensor([[-1.0], [-1.0]]), TWO.train_targets).tolist() == [1.0, 0.0]
    right = classification(OPTIONS, CLASSES).correct
    assert right is not None
    assert right(torch.eye(3)[[0, 1, 1]], CLASSES.train_targets).tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("make", "data", "said"),
    [
        (
            classification,
            NUMBERS,
            "cross-entropy takes targets that are classes; .* numbers from -2 to 3: use --loss mse",
        ),
        (regression, CLASSES, "mse takes targets that are numbers; .* 'toy' are 3 classes: use --loss cross-entropy"),
        (binary_classification, CLASSES, "bce takes .* two classes, or numbers from 0 to 1; .* are 3 classes"),
        (binary_classification, NUMBERS, "bce takes .* numbers from -2 to 3: use --loss mse"),
        (error_rate, NUMBERS, "error-rate takes targets that are classes; .* numbers from -2 to 3: use --loss mse"),
    ],
)
def test_other_targets_are_refused(make: Any, data: Dataset, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(OPTIONS, data)


def test_the_total_of_losses_and_of_their_mean() -> None:
    assert total(torch.tensor([1.0, 2.0, 6.0]), 3) == total(torch.tensor(3.0), 3) == 9.0


SOURCE = """
    import torch

    from fgcli import Dataset, Entry, hookimpl

    FG_CONTRACT = 2


    @hookimpl
    def fg_datasets():
        return [Entry(name, f"waves:{name}", "Waves.") for name in ("one", "two", "signs")]


    def split(targets, classes):
        return Dataset("waves", INPUTS[:80], targets[:80], INPUTS[80:], targets[80:], classes)


    INPUTS = torch.randn(100, 5, generator=torch.Generator().manual_seed(0))


    def one(options):
        return split(INPUTS.sin().sum(1), 1)


    def two(options):
        return split(torch.stack([INPUTS.sum(1), INPUTS[:, 0].cos()], 1), 2)


    def signs(options):
        return split((INPUTS.sum(1) > 0).long(), 2)
"""
LOSSES = """
    def huber(outputs, targets, delta: float = 1.0):
        assert outputs.shape == targets.shape
        error = (outputs - targets).abs()
        small = error.clamp(max=delta)
        return (small * (error - small / 2)).mean(1)


    def mean(outputs, targets):
        return (outputs - targets).square().mean()


    def pairs(outputs, targets):
        return outputs - targets.squeeze(1)


    def alone(outputs):
        return outputs


    class Huber:
        def __init__(self, outputs, targets):
            pass
"""
OWN = [*FLAGS[2:], "--plugin", "waves.py"]


@pytest.fixture(autouse=True)
def own_module(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (workplace / "waves.py").write_text(dedent(SOURCE))
    (workplace / "own.py").write_text(dedent(LOSSES))
    monkeypatch.setattr(sys, "path", [*sys.path])  # of which the folder of own.py becomes a part
    yield
    for name in ("waves", "own"):
        sys.modules.pop(name, None)
    load_registry.cache_clear()


@pytest.mark.parametrize("method", ["wt", "backprop", "weight-perturbation"])
@pytest.mark.parametrize("data", ["one", "two"])
def test_a_regression_is_trained_and_reports_losses_alone(method: str, data: str) -> None:
    flags = ["--method", method, "--dataset", data, "--loss", "mse", "--out", "run"]
    done = fg("train", *OWN, *flags)
    assert done.exit_code == 0, done.output
    assert "accuracy" not in done.output
    result = json.loads(Path("run/result.json").read_text())
    measured = rows(Path("run"))
    assert all("train_accuracy" not in row for row in [*measured, result])
    assert measured[-1]["train_loss"] == result["train_loss"]
    assert result["best_step"] is not None
    assert (result["loss"], result["lr_schedule"]) == ("mse", "constant")
    if method == "backprop":
        assert result["train_loss"] < measured[0]["train_loss"]
    done = fg("report", "run", "--html", "run.html")
    assert done.exit_code == 0, done.output
    assert "test loss" in done.output
    assert "accuracy" not in done.output + Path("run.html").read_text().lower()


def test_two_classes_have_one_logit_and_an_accuracy() -> None:
    done = fg("train", *OWN, "--dataset", "signs", "--loss", "bce", "--method", "backprop", "--epochs", "30", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["test_accuracy"] > 0.8


def test_a_function_of_ones_own_with_its_option() -> None:
    flags = ["--dataset", "one", "--loss", "own:huber", "--loss-option", "delta=0.5", "--out", "run"]
    done = fg("train", *OWN, *flags)
    assert done.exit_code == 0, done.output
    result = json.loads(Path("run/result.json").read_text())
    assert result["loss_options"] == {"delta": 0.5}
    environment = json.loads(Path("run/environment.json").read_text())
    assert environment["plugins"]["loss"].startswith("own file ")
    again = json.loads(fg("train", "--plugin", "waves.py", "--recipe", "run/recipe.yaml", "--json").stdout)
    assert untimed(again) == untimed(result)


def test_a_loss_may_be_the_mean() -> None:
    """Its gradient is that of the per-sample losses: backpropagation takes it already."""
    flags = ["--dataset", "two", "--method", "backprop", "--json"]
    mean, mse = (json.loads(fg("train", *OWN, *flags, "--loss", loss).stdout) for loss in ("own:mean", "mse"))
    assert mean["train_loss"] == pytest.approx(mse["train_loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            "own:pairs",
            r"gave torch.float32 [2, 2] for 2 samples; it must give their losses [2], or the mean of them []",
        ),
        ("own:alone", "takes (outputs); it must be a function of outputs and targets"),
        ("own:Huber", "is a class; it must be a function of outputs and targets"),
        ("own:hubert", "unknown attribute 'hubert' of module own; did you mean 'huber'?"),
        ("no_such_module:loss", "there is no module no_such_module here"),
        (
            "cross-entropy",
            "loss cross-entropy takes targets that are classes; those of dataset 'waves' are numbers from",
        ),
    ],
)
def test_a_bad_loss_is_one_line_exit_2_and_nothing_written(workplace: Path, loss: str, said: str) -> None:
    before = sorted(path for path in workplace.iterdir() if path.name != "__pycache__")
    done = fg("train", *OWN, "--dataset", "one", "--loss", loss)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(path for path in workplace.iterdir() if path.name != "__pycache__") == before


def test_a_loss_without_a_derivative_is_for_methods_that_need_none(workplace: Path) -> None:
    before = sorted(workplace.iterdir())
    done = fg("train", *FLAGS, "--loss", "error-rate")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "loss error-rate of fgcli" in done.stderr
    assert "has no derivative, which method" in done.stderr
    assert sorted(workplace.iterdir()) == before
    done = fg("train", *FLAGS, "--loss", "error-rate", "--method", "spsa")
    assert done.exit_code == 0, done.stderr


def test_the_search_of_the_learning_rate_goes_by_a_loss() -> None:
    Path("sweep.yaml").write_text(
        "base: {dataset: one, loss: mse, width: 8, depth: 2, batch_size: 32, epochs: 2, eval_every: 1, device: cpu}\n"
        "grid: {methods: [backprop]}\ntune: {lr: [0.01, 0.1], epochs: 1}\n"
        "views: [{kind: table, title: T, value: [test_loss, test_accuracy]}]\n"
    )
    flags = ["--plugin", "waves.py", *served.FLAGS]
    done = fg("bench", "sweep.yaml", *flags, "--out", "sweep")
    assert done.exit_code == 0, done.output
    assert "finished backprop" in done.stdout
    assert "loss " in done.stdout
    done = fg("report", "sweep")
    assert done.exit_code == 0, done.output
    Path("sweep.yaml").write_text(Path("sweep.yaml").read_text().replace("epochs: 1}", "epochs: 1, by: test_accuracy}"))
    done = fg("bench", "sweep.yaml", *flags, "--out", "other")
    assert done.exit_code == 2
    assert "tune.by is test_accuracy, which a run with loss mse has not; choose train_loss or test_loss" in done.stderr
