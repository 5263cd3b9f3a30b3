"""A sweep that goes on after its code, its coefficients or a library changed."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import served
from fake_runs import ENVIRONMENT, fake_run
from tiny_runs import fg

from fgcli.bench.alike import Alike
from fgcli.bench.run import Job
from fgcli.errors import RunError
from fgcli.extend.own_code import changed_files, checksum, own_code
from fgcli.recipe import read_recipe
from fgcli.recipe_keys import Recipe
from fgcli.runs.run_directory import RunDirectory
from fgcli.spectra.table_file import active_path, shipped_table, write_table

NETS = """
from torch import nn


def make(input_shape, classes, hidden: int = 8):
    first, last = nn.Linear(input_shape[0], hidden, bias=False), nn.Linear(hidden, classes, bias=False)
    return nn.Sequential(first, nn.ReLU(), last)
"""
REAL = """
base: {model: "NAME:make", epochs: 1, eval_every: 1, batch_size: 32, dataset_options: {num_samples: 100}, device: cpu}
grid: {methods: [{label: NS, method: wperp-ns, k: 2}], seed: [0, 1, 2]}
"""


def other_table() -> None:
    table = shipped_table()
    active_path().parent.mkdir(exist_ok=True)
    write_table(replace(table, options=replace(table.options, seed=5)), active_path())


@pytest.mark.slow  # several processes
def test_a_sweep_keeps_its_coefficients_and_is_refused_once_the_users_model_has_changed(tmp_path, monkeypatch):
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path / "cache"))
    Path("alike_nets.py").write_text(NETS)
    Path("real.yaml").write_text(REAL.replace("NAME", "alike_nets"))
    flags = ["bench", "real.yaml", "--out", "r", *served.FLAGS]
    done = fg(*flags, "--seeds", "0")
    assert done.exit_code == 0, done.stderr
    other_table()
    done = fg(*flags, "--seeds", "1")
    assert done.exit_code == 0, done.stderr
    recipes = [read_recipe(f"r/trials/ns-seed{seed}/recipe.yaml").data for seed in (0, 1)]
    coefficients = [one["options"]["coeffs"] for one in recipes if isinstance(one["options"], dict)]
    assert coefficients == ["shipped", "shipped"]
    environment = json.loads(Path("r/trials/ns-seed1/environment.json").read_text())
    assert environment["code"]["alike_nets"]["sha256"] == checksum("alike_nets.py")
    assert len(environment["data"]) == 12
    Path("alike_nets.py").write_text(NETS.replace("nn.ReLU()", "nn.Tanh()"))
    refused = fg(*flags)
    assert refused.exit_code == 2
    assert "alike_nets.py has changed since ns-seed0 was run; its trials and new ones must not be" in refused.stderr
    assert not Path("r/trials/ns-seed2").exists()


def begun(**environment: Any) -> None:
    """A trial of the stub's sweep, as a process with that environment has left it."""
    folder = Path("d/trials/backprop-seed0")
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "recipe.yaml").write_text("{optimizer: mine}\n")


def test_other_versions_are_said(stubbed, caplog):
    stubbed("--limit", "1")
    begun(fg="0.0.1", torch="1.0")
    with caplog.at_level(logging.WARNING, "fgcli"):
        assert stubbed().exit_code == 0
    assert [record.getMessage().split(",")[0] for record in caplog.records] == [
        "fg was 0.0.1 in earlier trials", "torch was 1.0 in earlier trials",
    ]  # fmt: skip


def test_a_changed_file_that_a_plugin_or_model_imports_is_refused(stubbed):
    stubbed("--limit", "1")
    Path("layers.py").write_text("size = 8\n")
    begun(code={"layers": {"file": "layers.py", "sha256": checksum("layers.py")}, "gone": {"file": "x", "sha256": "y"}})
    assert stubbed("--limit", "1").exit_code == 0
    Path("layers.py").write_text("size = 16\n")
    refused = stubbed()
    assert refused.exit_code == 2
    assert "--out d: layers.py has changed since backprop-seed0 was run" in refused.stderr


class Silent:
    def started(self, job: Any, attempt: int) -> None: ...

    def finished(self, job: Any) -> None: ...

    def failed(self, failure: Any, *, again: bool) -> None: ...


@pytest.mark.parametrize(
    ("environment", "options", "said"),
    [
        ({"code": {"nets": {"file": "nets.py", "sha256": "222"}}}, {}, "module nets was 111 in trial a and 222 in b"),
        ({"data": "bbb"}, {}, "dataset mnist1d was aaa in trial a and bbb in b"),
        ({"plugins": {"method": "mine 2.0"}}, {}, "method wt was mine 1.0 in trial a and mine 2.0 in b"),
        ({}, {"coeffs": "{...}"}, "option coeffs was shipped in trial a and {...} in b"),
        ({"torch": "9.9", "fg": "9.9"}, {}, None),
    ],
)
def test_a_bench_stops_where_something_changed_while_it_ran(tmp_path, environment, options, said):
    first = {"code": {"nets": {"file": "nets.py", "sha256": "111"}}, "data": "aaa", "plugins": {"method": "mine 1.0"}}
    for name, of in (("a", first), ("b", first | environment)):
        own = {"coeffs": "shipped"} | (options if name == "b" else {})
        fake_run(tmp_path / name, environment={**ENVIRONMENT, **of}, options=own, seed=0 if name == "a" else 1)
    watcher = Alike(Silent(), [("a", tmp_path / "a")], lambda name: "one group")
    job = Job("b", Recipe(), tmp_path / "b.yaml", RunDirectory(tmp_path / "b"), tmp_path / "b.log")
    if said is None:
        watcher.finished(job)
        return
    with pytest.raises(RunError, match="stopped") as stopped:
        watcher.finished(job)
    assert said in str(stopped.value)


def test_own_code_is_neither_pythons_nor_installed_nor_of_fg(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_layers.py").write_text("size = 8\n")
    __import__("my_layers")
    code = own_code(["my_plugin.entry"])
    assert code["my_layers"] == {
        "file": str(tmp_path / "my_layers.py"),
        "sha256": checksum(str(tmp_path / "my_layers.py")),
    }
    assert not {name.partition(".")[0] for name in code} & {"json", "numpy", "torch", "pytest", "fgcli", "typer"}
    assert "typer" in own_code(["typer"])  # as a plugin that is installed would be
    assert changed_files(code) == []
    (tmp_path / "my_layers.py").write_text("size = 9\n")
    assert changed_files(code) == [str(tmp_path / "my_layers.py")]
