import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, NamedTuple

import pytest

from fg_plugin_mlflow import MLflowOptions
from fg_plugin_mlflow.sink import MLflow
from fgcli import Coverage, Plan, load_registry
from fgcli.testing import run_fg

TRAIN = ["train", "--dataset", "digits", "--width", "8", "--epochs", "2", "--eval-every", "1"]
TRAIN += ["--threads", "1", "--device", "cpu", "--quiet"]


class Metric(NamedTuple):
    key: str
    value: float
    timestamp: int
    step: int


class FakeClient:
    """What the sink uses of MlflowClient, of one server for all clients."""

    experiments: ClassVar[dict[str, str]]
    runs: ClassVar[list[SimpleNamespace]]

    def __init__(self, tracking_uri: str | None) -> None:
        self.tracking_uri = tracking_uri

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        found = self.experiments.get(name)
        return None if found is None else SimpleNamespace(experiment_id=found)

    def create_experiment(self, name: str) -> str:
        return self.experiments.setdefault(name, f"e{len(self.experiments)}")

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        info = SimpleNamespace(run_id=f"r{len(self.runs)}")
        known = {"experiment": experiment, "name": run_name, "tags": tags, "status": "RUNNING"}
        self.runs.append(SimpleNamespace(info=info, **known, params={}, metrics=[], files={}))
        return self.runs[-1]

    def search_runs(self, experiments: list[str], query: str, max_results: int) -> list[SimpleNamespace]:
        key = query.split("'")[1]
        return [run for run in self.runs if run.experiment in experiments and key in run.tags.values()][:max_results]

    def update_run(self, run: str, status: str) -> None:
        self._run(run).status = status

    set_terminated = update_run

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        self._run(run).metrics += metrics
        self._run(run).params |= dict(params)

    def log_dict(self, run: str, content: dict[str, Any], file: str) -> None:
        self._run(run).files[file] = content

    log_text = log_dict

    def _run(self, run: str) -> SimpleNamespace:
        return self.runs[int(run[1:])]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[SimpleNamespace]:
    FakeClient.experiments, FakeClient.runs = {}, []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace(MlflowClient=FakeClient))
    entities = SimpleNamespace(Metric=Metric, Param=lambda key, value: (key, value))
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    return FakeClient.runs


def test_fg_train_gives_it_recipe_rows_result_and_report(runs: list[SimpleNamespace]) -> None:
    done = run_fg(*TRAIN, "--sink", "mlflow", "--out", "run")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    (run,) = runs
    assert (FakeClient.experiments, run.experiment, run.name, run.status) == ({"fg": "e0"}, "e0", "run", "FINISHED")
    assert run.params["width"] == "8"
    assert run.params["optimizer"] == "adamw"
    assert [one.step for one in run.metrics if one.key == "train_loss"] == [3, 6, 6]  # and the result's
    assert "peak_memory_bytes" in {one.key for one in run.metrics}
    assert "width" not in {one.key for one in run.metrics}
    assert run.files["result.json"]["steps"] == 6
    assert "<html" in run.files["report.html"]


def test_runs_of_a_sweep_share_an_experiment_and_a_resumed_one_goes_on(runs: list[SimpleNamespace]) -> None:
    def begin(run_dir: Path, first_step: int = 0, **more: Any) -> MLflow:
        sink = MLflow(MLflowOptions())
        sink.started(Plan("wt", run_dir, first_step, 16, 8, Coverage(()), **more))
        return sink

    sweep: dict[str, Any] = {"sweep": Path("runs/table")}
    begin(Path("runs/table/trials/one"), **sweep).finished(None)
    begin(Path("runs/table/trials/two"), **sweep)
    begin(Path("runs/table/trials/one"), first_step=8, **sweep)
    assert list(FakeClient.experiments) == ["table"]
    assert [(run.name, run.status) for run in runs] == [("one", "RUNNING"), ("two", "RUNNING")]
    begin(Path("runs/table/trials/one"), **sweep)  # begun anew: another run
    assert len(runs) == 3


def test_a_failing_tracker_is_one_warning(runs: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError("no server at http://tracker")

    monkeypatch.setattr(FakeClient, "log_batch", fail)
    done = run_fg(*TRAIN, "--sink", "mlflow", "--out", "run")
    assert done.exit_code == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("fg: warning: metric sink mlflow of fg-plugin-mlflow 0.1.0 failed")
    assert "no server at http://tracker" in line
    assert Path("run/result.json").exists()


def test_without_mlflow_the_training_goes_on_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mlflow", None)
    done = run_fg(*TRAIN, "--sink", "mlflow", "--out", "run")
    assert done.exit_code == 0
    assert "pip install 'fg-plugin-mlflow[mlflow]'" in done.stderr
    assert Path("run/result.json").exists()


@pytest.mark.skipif(find_spec("mlflow") is None, reason="MLflow is an optional dependency")
def test_mlflow_gives_back_what_a_sweep_wrote(tmp_path: Path) -> None:
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/own.db", "OMP_NUM_THREADS": "1"}
    grid = "grid: {methods: [{label: backprop, method: backprop}], seed: [0, 1]}"
    (tmp_path / "sweep.yaml").write_text(f"base: {{dataset: digits, width: 8, epochs: 1}}\n{grid}\n")
    command = ["bench", "sweep.yaml", "--out", "runs/mine", "--sink", "mlflow", "--jobs", "2", "--quiet"]
    bench = [sys.executable, "-m", "fgcli", *command]
    done = subprocess.run(bench, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logs = "".join(path.read_text() for path in (tmp_path / "runs" / "mine" / "logs").iterdir())
    assert "warning" not in logs
    read = """
from mlflow import MlflowClient
client = MlflowClient()
(found,) = [one for one in client.search_experiments() if one.name != "Default"]
runs = client.search_runs([found.experiment_id])
files = sorted(one.path for one in client.list_artifacts(runs[0].info.run_id))
print(found.name, *sorted(run.info.run_name for run in runs), *files)
print({run.data.params["width"] for run in runs}, {run.info.status for run in runs})
print(all(0 < run.data.metrics["train_loss"] < 10 for run in runs))
"""
    reading = [sys.executable, "-W", "ignore", "-c", read]
    found = subprocess.run(reading, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert found.stdout.splitlines() == [
        "mine backprop-seed0 backprop-seed1 report.html result.json",
        "{'8'} {'FINISHED'}",
        "True",
    ], found.stderr


def test_it_is_registered() -> None:
    assert load_registry().find("metric sink", "fg-plugin-mlflow:mlflow").entry.load() is MLflow


def test_registering_imports_no_mlflow() -> None:
    code = "import sys, fg_plugin_mlflow as p; p.fg_metric_sinks(); sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
