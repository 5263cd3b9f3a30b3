"""A run logged from a loop of one's own, as `fgcli report` and notebooks show it."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from fake_runs import fake_run
from tiny_runs import fg
from torch import nn

import fgcli
from fgcli import ForwardGradient, UsageError, open_run, read_report, read_run
from fgcli.errors import RunError

GIVEN: dict[str, Any] = {
    "method": "my loop", "dataset": "my data", "model": "my net", "epochs": 2, "batch_size": 8, "lr": 0.1,
}  # fmt: skip


def logged(path: Path, losses: tuple[float, ...] = (2.0, 1.0), **more: Any) -> None:
    with open_run(path, **GIVEN, **more) as run:
        for epoch, loss in enumerate(losses, 1):
            run.log(10 * epoch, epoch, train_loss=loss, test_loss=loss + 0.5, train_accuracy=0.5, test_accuracy=0.25)


def fails(path: Path) -> None:
    with open_run(path, **GIVEN) as run:
        run.log(1, 0.5, train_loss=1.0, test_loss=1.0)
        _ = 1 / 0


def test_its_rows_and_its_result_are_reported(tmp_path: Path) -> None:
    for seed in (0, 1):
        logged(tmp_path / f"run{seed}", (2.0, 1.0 + seed), seed=seed)
    rows = read_run(tmp_path / "run1").read_metrics()
    assert [(row.step, row.epoch, row.metrics.train_loss) for row in rows] == [(10, 1.0, 2.0), (20, 2.0, 2.0)]
    records = list(json.loads(fg("report", str(tmp_path), "--json").stdout)["sections"][0]["items"][0]["records"])
    accuracy = next(one for one in records if one["value"] == "test_accuracy")
    assert (accuracy["label"], accuracy["mean"], accuracy["n"]) == ("my loop", 0.25, 2)
    shown = fg("report", str(tmp_path)).stdout
    assert "my loop" in shown
    assert "2.000 → 1.500 [1.000, 2.000]" in shown  # training loss over epochs
    recipe = (tmp_path / "run0" / "recipe.yaml").read_text()
    assert "optimizer: own\n" in recipe  # and none of fg's defaults


def test_it_joins_no_sweep_whose_data_are_others(tmp_path: Path) -> None:
    logged(tmp_path / "mine")
    fake_run(tmp_path / "theirs")
    sections = json.loads(fg("report", str(tmp_path), "--json").stdout)["sections"]
    axes = [record["axes"] for section in sections for record in section["items"][0]["records"]]
    assert {one["dataset"] for one in axes} == {"my data", "mnist1d"}


def test_an_exception_leaves_it_unfinished_with_its_rows(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fails(tmp_path / "run")
    directory = read_run(tmp_path / "run")
    assert (directory.is_finished(), len(directory.read_metrics())) == (False, 1)
    assert "stopped or still running, at step 1" in fg("report", str(tmp_path), "--markdown").output
    with pytest.raises(RunError) as error:
        directory.read_result()
    go_on = f"one that fgcli train began goes on with: fgcli train --resume {directory.path}"
    assert str(error.value) == f"{directory.path}: the run has not finished; {go_on}"


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("command", "called"),
    [
        ("train --resume run", "--resume run"),
        ("train --resume run --epochs 9", "--resume run"),
        ("train --init-from run", "--init-from run"),
        ("evaluate run", "run"),
        ("predict run inputs.npz", "run"),
        ("export run --format safetensors --out file", "run"),
        ("analyze-moments run", "run"),
    ],
)
def test_what_needs_its_network_says_that_fg_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: bool, command: str, called: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if finished:
        logged(Path("run"))
    else:
        with pytest.raises(ZeroDivisionError):
            fails(Path("run"))
    done = fg(*command.split())
    said = "this run was logged from a loop of one's own: fgcli can report on it, but neither go on"
    mend = "with it nor use its network; go on in that loop, in a new folder"
    assert (done.exit_code, done.stderr) == (2, f"fg: {called}: {said} {mend}\n")
    assert not Path("runs").exists()


def test_a_folder_that_is_taken_is_named_as_the_argument_that_it_is(tmp_path: Path) -> None:
    logged(tmp_path / "finished")
    with pytest.raises(ZeroDivisionError):
        fails(tmp_path / "run")
    (tmp_path / "file").touch()
    for name, said in (
        ("finished", "holds a finished run; give a new folder, or remove that one"),
        ("run", "holds an unfinished run; remove that one, or give a new folder"),
        ("file", "is not an empty folder; give a new folder or an empty one"),
    ):
        with pytest.raises(UsageError) as error:
            open_run(tmp_path / name, **GIVEN)
        assert str(error.value) == f"open_run: path {tmp_path / name} {said}"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0}, "open_run: lr is 0; it must be above 0"),
        ({"epochs": 1.5}, "open_run: epochs is 1.5; it must be a whole number"),
        ({"epoch": 3}, "open_run: unknown recipe key 'epoch'; did you mean 'epochs'?"),
        ({"device": "gpu"}, "open_run: device is 'gpu'; it must be one of "),
        ({"seed": -1}, "open_run: seed is -1; it must be at least 0"),
    ],
)
def test_keys_that_no_recipe_has_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        open_run(tmp_path / "run", **{**GIVEN, **changes})
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_loss": math.nan}, "train_loss is nan; it must be finite"),
        ({"test_loss": -math.inf}, "test_loss is -inf; it must be finite"),
        ({"test_accuracy": 93.0}, "test_accuracy is 93; it must be from 0 to 1; did you mean 0.93?"),
        ({"train_accuracy": -0.1}, "train_accuracy is -0.1; it must be from 0 to 1"),
        ({"step": 5}, "step is 5; it must be above 5, that of the row before"),
    ],
)
def test_numbers_that_no_row_can_hold_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with open_run(tmp_path / "run", **GIVEN) as run:
        run.log(5, 1, train_loss=1.0, test_loss=1.0)
        with pytest.raises(UsageError) as error:
            run.log(**{"step": 6, "epoch": 1, "train_loss": 1.0, "test_loss": 1.0, **changes})
        assert said in str(error.value)
    assert len(read_run(tmp_path / "run").read_metrics()) == 1


class Texts(HTMLParser):
    """The texts of a page, and its frames' pages."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.frames: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.frames += [value or "" for name, value in attrs if tag == "iframe" and name == "srcdoc"]


def test_a_result_is_a_table_in_a_notebook(tmp_path: Path) -> None:
    fake_run(tmp_path / "run", method="<b>wt</b>", accuracy=0.5)
    html = read_run(tmp_path / "run").read_result()._repr_html_()
    assert read_run(tmp_path / "run")._repr_html_() == html
    fake_run(tmp_path / "<half>", finished=False)
    assert read_run(tmp_path / "<half>")._repr_html_().endswith("/&lt;half&gt;: not finished</p>")
    texts = Texts(html).texts
    assert texts[:4] == ["method", "<b>wt</b>", "dataset", "mnist1d"]
    assert texts[texts.index("test accuracy") + 1] == "0.500"
    assert texts[texts.index("time per step, ms") + 1] == "2.00"


def test_forward_gradient_is_a_table_in_a_notebook_that_says_what_trains_each_parameter() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 4)).double()
    gradient = ForwardGradient(model, "wt", seed=3)
    known = "<tr><th>method</th><td>wt</td></tr><tr><th>seed</th><td>3</td></tr><tr><th>steps</th><td>{}</td></tr>"
    assert gradient._repr_html_() == f"<table>{known.format(0)}</table>"
    gradient.step(torch.randn(3, 5).double(), torch.arange(3), F.cross_entropy)
    covered = "2 parameters trained by weight perturbation, as no site covers them: 1.weight, 1.bias"
    trained = f"<tr><th>trained</th><td>2 sites: 0, 2<br>{covered}</td></tr>"
    assert gradient._repr_html_() == f"<table>{known.format(1)}{trained}</table>"


def test_a_report_is_its_page_in_a_notebook(tmp_path: Path) -> None:
    from fgcli.report.page import as_html

    fake_run(tmp_path / "run", accuracy=0.5)
    report = read_report(tmp_path / "run")
    (page,) = Texts(report._repr_html_()).frames
    assert page == as_html(report)
    assert fgcli.read_report(str(tmp_path)).sections[0].title == report.sections[0].title
    with pytest.raises(UsageError, match="--baseline: unknown label 'x'"):
        read_report(tmp_path, baseline="x")
