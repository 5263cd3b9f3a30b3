import io
import os
import subprocess
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fg_plugin_wandb import WandbOptions
from fg_plugin_wandb.sink import Wandb
from fgcli import Coverage, Plan, load_registry
from fgcli.testing import run_fg

TRAIN = ["train", "--dataset", "digits", "--width", "8", "--epochs", "2", "--eval-every", "1"]
TRAIN += ["--threads", "1", "--device", "cpu", "--quiet", "--out", "run", "--sink", "wandb"]


class FakeRun:
    def __init__(self, number: int, given: dict[str, Any]) -> None:
        self.given, self.id = given, given["id"] or f"id{number}"
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.summary: dict[str, Any] = {}
        self.files: dict[str, str] = {}
        self.exit_code: int | None = None

    def log(self, row: dict[str, Any], step: int) -> None:
        self.rows.append((step, row))

    def log_artifact(self, artifact: "FakeArtifact") -> None:
        self.files = {name: file.text for name, file in artifact.files.items()}

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeFile(io.StringIO):
    text = ""


class FakeArtifact:
    def __init__(self, name: str, type: str) -> None:
        self.files: dict[str, FakeFile] = {}

    @contextmanager
    def new_file(self, name: str, encoding: str) -> Any:
        file = self.files[name] = FakeFile()
        yield file
        file.text = file.getvalue()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[FakeRun]:
    made: list[FakeRun] = []

    def init(**given: Any) -> FakeRun:
        made.append(FakeRun(len(made), given))
        return made[-1]

    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fake = SimpleNamespace(init=init, Settings=lambda **given: given, Artifact=FakeArtifact)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return made


def begin(run_dir: Path, first_step: int = 0, sweep: Path | None = None, **options: Any) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    plan = Plan("wt", run_dir, first_step, 16, 8, Coverage(()), sweep=sweep)
    Wandb(WandbOptions(**options)).started(plan)


def test_fg_train_gives_it_recipe_rows_result_and_report(runs: list[FakeRun]) -> None:
    done = run_fg(*TRAIN)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    (run,) = runs
    given = [run.given[key] for key in ("project", "group", "name", "mode")]
    assert given == ["fg", None, "run", "offline"]
    assert run.given["config"]["width"] == 8
    assert [step for step, row in run.rows if "train_loss" in row] == [3, 6]
    assert run.summary["steps"] == 6
    assert "width" not in run.summary
    assert "<html" in run.files["report.html"]
    assert run.exit_code == 0


def test_runs_of_a_sweep_share_a_group_and_a_resumed_one_goes_on(runs: list[FakeRun]) -> None:
    sweep = Path("runs/table")
    begin(sweep / "trials/one", sweep=sweep)
    begin(sweep / "trials/two", sweep=sweep)
    begin(sweep / "trials/one", first_step=8, sweep=sweep)
    assert {run.given["group"] for run in runs} == {"table"}
    assert [run.id for run in runs] == ["id0", "id1", "id0"]
    assert runs[2].given["resume"] == "allow"
    begin(sweep / "trials/one", sweep=sweep)  # begun anew: another run
    assert runs[3].id == "id3"


def test_it_is_online_where_there_is_a_login(
    runs: list[FakeRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine elsewhere.org login user password key\n")
    begin(tmp_path / "run")
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password key\n")
    begin(tmp_path / "run")
    begin(tmp_path / "run", mode="offline")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    begin(tmp_path / "run")
    assert [run.given["mode"] for run in runs] == ["offline", "online", "offline", "disabled"]


def test_without_wandb_the_training_goes_on_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "wandb", None)
    done = run_fg(*TRAIN)
    assert done.exit_code == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("fg: warning: metric sink wandb of fg-plugin-wandb 0.1.0 failed")
    assert "pip install 'fg-plugin-wandb[wandb]'" in line
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.skipif(find_spec("wandb") is None, reason="W&B is an optional dependency")
def test_wandb_itself_writes_a_run_offline(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    environment |= {"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    train = [sys.executable, "-m", "fgcli", *TRAIN]
    done = subprocess.run(train, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (written,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb")
    content = written.read_bytes()
    for part in (b"train_loss", b"peak_memory_bytes", b"report-", b"adamw"):
        assert part in content


def test_it_is_registered() -> None:
    assert load_registry().find("metric sink", "fg-plugin-wandb:wandb").entry.load() is Wandb


def test_registering_imports_neither_torch_nor_wandb() -> None:
    code = "import sys, fg_plugin_wandb as p; p.fg_metric_sinks(); sys.exit(bool({'torch', 'wandb'} & {*sys.modules}))"
    subprocess.run([sys.executable, "-c", code], check=True)
