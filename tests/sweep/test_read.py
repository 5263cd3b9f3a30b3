import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.recipe import read_recipe, resolve
from fgcli.sweep.read import parse_sweep, read_sweep, resolve_trials
from fgcli.sweep.schema import dump_sweep

SWEEP = """\
title: A sweep
base:
  epochs: 2
  options: {uncovered: freeze}
grid:
  methods:
    - wt
    - {label: W̃⊥, method: wperp, options: {solver: shared}}
  width: [16, 32]
  seed: [0, 1]
tune: {lr: [1e-3, 1e-2]}
views:
  - kind: table
    title: Accuracy
    value: train_accuracy
    rows: width
    columns: label
    baseline: wt
    where: {label: [wt, W̃⊥], width: 16}
    reference:
      "16": {wt: 0.3}
  - {kind: curve, title: Loss, y: {key: variance, layer: hidden1}}
  - {kind: figure, title: Widths, x: width, y: test_accuracy, reference: {wt: {"32": 0.4}}}
  - {kind: overlap, title: Overlap, panels: width}
  - {kind: reach, title: Goal, goal: {key: test_loss, value: 1}, y: step_peak_bytes, by: label}
"""

Read = Callable[[str], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.yaml"


@pytest.fixture
def refused(path: Path) -> Callable[..., str]:
    """The message that SWEEP with a replacement is refused with, from the place in the file on."""

    def refused(old: str, new: str) -> str:
        assert old in SWEEP
        path.write_text(SWEEP.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(UsageError) as caught:
            resolve_trials(*read_sweep(path), load_registry())
        message = str(caught.value)
        assert message.startswith(f"{path}:")
        return message.removeprefix(f"{path}:")

    return refused


def test_read_whole(path):
    path.write_text(SWEEP, encoding="utf-8")
    sweep, _ = read_sweep(path)
    assert sweep.labels() == ["wt", "W̃⊥"]
    assert sweep.grid.axes == {"width": [16, 32]}
    table = sweep.views[0]
    assert table.kind == "table"
    assert [value.key for value in table.value] == ["train_accuracy"]
    assert table.published([16, "wt"]) == 0.3
    assert table.published([32, "wt"]) is None
    assert table.where == {"label": ["wt", "W̃⊥"], "width": [16]}


def test_what_is_dumped_reads_back_equal(path):
    path.write_text(SWEEP, encoding="utf-8")
    sweep, _ = read_sweep(path)
    path.write_text(dump_sweep(sweep), encoding="utf-8")
    assert read_sweep(path)[0] == sweep


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # its own keys
        ("title: A", "titel: A", "1:1: unknown key 'titel' of a sweep; did you mean 'title'?"),
        ("title: A sweep", "title: [A]", "1:8: title is ['A']; it must be text"),
        ("  epochs: 2", "  epoch: 2", "3:3: unknown key 'epoch' of base; did you mean 'epochs'?"),
        ("width: [16, 32]", "widths: [16, 32]", "9:3: unknown key 'widths' of grid; did you mean 'width'?"),
        ("width: [16, 32]", "method: [wt]", "9:3: the compared methods are a list under `methods`"),
        ("width: [16, 32]", "width: 16", "9:10: grid.width is 16; it must be a list of values"),
        ("width: [16, 32]", "width: []", "9:10: grid.width is []; it must be a list of values"),
        ("width: [16, 32]", "width: [16, [1]]", "9:15: grid.width[1] is [1]; it must be text, a number"),
        ("width: [16, 32]", "width: [16, 16]", "9:15: 16 is given twice in grid.width; remove one"),
        ("width: [16, 32]", "width: [16, 16.0]", "9:15: 16.0 is given twice in grid.width; remove one"),
        ("seed: [0, 1]", "seed: [0, -1]", "10:13: grid.seed[1] is -1; it must be at least 0"),
        ("seed: [0, 1]", "epochs: [1, 2]", "3:3: base.epochs and grid.epochs say the same; give one of them"),
        ("seed: [0, 1]", "lr: [0.1]", "10:3: grid.lr and tune.lr say the same; give one of them"),
        ("    - wt\n", "    - {label: a, widht: 3}\n", "7:18: unknown key 'widht' of method a; did you mean 'width'?"),
        ("    - wt\n", "    - {label: a, width: 3}\n", "7:18: grid.methods[0].width and grid.width say the same"),
        ("    - wt\n", "    - {width: 3}\n", "7:7: grid.methods[0].label is missing"),
        ("    - wt\n", "    - {label: wt}\n", "7:15: grid.methods[0] has label 'wt' and no method, and base has none"),
        ("    - wt\n", "    - W̃⊥\n", "8:15: label 'W̃⊥' is given twice; give each method a label of its own"),
        ("lr: [1e-3, 1e-2]", "lr: [-1]", "11:13: tune.lr[0] is -1; it must be above 0"),
        ("lr: [1e-3, 1e-2]", "lr: [1, 1.0]", "11:16: 1.0 is given twice in tune.lr; remove one"),
        ("lr: [1e-3, 1e-2]", "lr: [1], seed: [3, 3]", "11:27: 3 is given twice in tune.seed; remove one"),
        ("lr: [1e-3, 1e-2]", "lr: [1], by: loss", "11:21: tune.by is 'loss'; it must be 'train_accuracy',"),
        ("lr: [1e-3, 1e-2]", "lr: [1], seeds: [1]", "11:17: unknown key 'seeds' of tune; did you mean 'seed'?"),
        # views
        ("kind: table", "kind: tables", "13:11: views[0].kind is 'tables'; it must be curve, figure, overlap, reach,"),
        ("rows: width", "rows: widht", "16:11: unknown key 'widht' of grid; did you mean 'width'?"),
        ("rows: width", "row: width", "16:5: unknown key 'row' of a table; did you mean 'rows'?"),
        ("value: train_accuracy", "value: accuracy", "15:12: unknown value 'accuracy'; did you mean 'test_accuracy'?"),
        ("baseline: wt", "baseline: Wt", "18:15: unknown value 'Wt' of label; did you mean 'wt'?"),
        ("width: 16}\n    ref", "width: 17}\n    ref", "19:38: unknown value '17' of width;"),
        ('"16": {wt', '"16": {w', "21:14: unknown value 'w' of label; did you mean 'wt'?"),
        ("{wt: 0.3}", "{wt: x}", "21:18: views[0].reference.16.wt is 'x'; it must be a finite number"),
        ("{wt: 0.3}", "{wt: .nan}", "21:18: views[0].reference.16.wt is nan; it must be a finite number"),
        ("{wt: 0.3}", "0.3", "21:13: views[0].reference.16 is 0.3; it must be a mapping of values of label"),
        ("layer: hidden1", "leyer: hidden1", "22:51: unknown key 'leyer' of views[1].y; remove it"),
        ("value: train", "value: []\n    note: train", "15:12: views[0].value is []; it must be at least 1 long"),
        ("rows: width", "rows: [width, width]", "16:11: 'width' stands twice among rows and columns"),
        ("rows: width", "rows: [width, label]", "16:11: 'label' stands twice among rows and columns"),
        ("[wt, W̃⊥], width", "[W̃⊥], width", "18:15: 'wt' is not among the labels of where"),
        ("value: train_accuracy", "value: wall_s\n    at: {x: epoch}", "16:9: 'wall_s' is not evaluated during train"),
        ("x: width, y: test", "x: label, y: test", "23:38: 'label' is no axis of numbers"),
        ("{key: variance, layer: hidden1}", "timed_step_ms", "22:35: 'timed_step_ms' is not recorded during training;"),
        ("{key: test_loss", "{key: loss", "25:44: views[4].goal.key is 'loss'; it must be 'train_accuracy', 'test_acc"),
        (
            "test_loss, value: 1}",
            "test_accuracy, value: 90}",
            "25:66: goal test_accuracy is 90; it must be from 0 to 1; did you mean 0.9?",
        ),
        (
            "test_loss, value: 1}",
            "test_accuracy, value: -1}",
            "25:66: goal test_accuracy is -1; it must be from 0 to 1",
        ),
        ("{wt: 0.3}", "{wt: 30}", "21:18: views[0].reference.16.wt is 30; it must be from 0 to 1; did you mean 0.3?"),
        ("y: step_peak_bytes", "y: test_loss", "25:69: 'test_loss' changes during training; beside a goal stands"),
        ("by: label}", "by: lable}", "25:90: unknown key 'lable' of grid; did you mean 'label'?"),
        # what the runs have
        ("  epochs: 2", "  epochs: 0", "3:11: epochs is 0; it must be at least 1"),
        ("    - wt\n", "    - wt\n    - wtt\n", "8:7: unknown method 'wtt'; did you mean 'wt'?"),
        ("method: wperp", "method: wperpp", "8:28: unknown method 'wperpp'; did you mean 'wperp'?"),
        ("solver: shared", "sovler: shared", "8:45: unknown option 'sovler' of method wperp; did you mean 'solver'?"),
        ("uncovered: freeze", "uncovered: no", "4:24: options.uncovered is 'no'; it must be 'perturb' or 'freeze'"),
        (
            "width: [16, 32]",
            "width: [16, 32, 8]",
            "9:19: width is 8, below k, which is 10 by default; set k",
        ),
        ("seed: [0, 1]", "k: [1, 2]", "10:7: k is given, but method wt has no option k; its options: "),
        # what any YAML is refused for
        ("epochs: 2", "epochs: 2\n  epochs: 3", "4:3: key 'epochs' is given twice, first in line 3; remove one"),
        ("title: A sweep", "title: !!python/name:os.system x", "1:8: tags are not allowed"),
        ("width: [16, 32]", "width: &a [1]\n  depth: *a", "10:10: aliases (*name) are not allowed"),
    ],
)
def test_refused_with_its_place(refused, old, new, message):
    assert refused(old, new).startswith(message)


def test_a_grid_that_explodes_is_refused(refused):
    keys = ("width", "depth", "max_steps", "batch_size", "eval_every", "threads")
    axes = "\n  ".join(f"{key}: [{', '.join(map(str, range(10, 20)))}]" for key in keys)
    assert refused("width: [16, 32]", axes).startswith("5:1: the grid has 4000000 trials, above 10000")


def test_a_run_is_no_sweep_and_a_sweep_is_no_run(path):
    path.write_text("method: wt\n")
    with pytest.raises(UsageError, match=r"s.yaml:1:1: this is the recipe of one run.*fgcli train --recipe"):
        read_sweep(path)
    path.write_text(SWEEP, encoding="utf-8")
    with pytest.raises(UsageError, match=r"s.yaml:5:1: this is a sweep of many runs; run it with: fgcli bench"):
        resolve(read_recipe(path), {}, load_registry())


@given(st.text(alphabet="grid:metho[]{}-, wv10\n\"'", max_size=40))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(f"grid: {text}")
    with contextlib.suppress(UsageError):
        parse_sweep(read_recipe(path))
