import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from fg_plugin_tensorboard import TensorBoardOptions
from fg_plugin_tensorboard.sink import TensorBoard
from fgcli import Coverage, Plan, load_registry
from fgcli.testing import run_fg

ROW = {"step": 8, "epoch": 1.0, "train_loss": 2.5, "test_accuracy": 0.25, "wall_s": 3.5, "note": "text"}
TRAIN = ["train", "--dataset", "digits", "--width", "8", "--epochs", "2", "--eval-every", "1"]
TRAIN += ["--threads", "1", "--device", "cpu", "--quiet", "--out", "run"]


class FakeWriter:
    made: ClassVar[list["FakeWriter"]]

    def __init__(self, folder: str, purge_step: int | None) -> None:
        self.folder, self.purge_step, self.calls = folder, purge_step, list[Any]()
        FakeWriter.made.append(self)

    def add_scalar(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> list[FakeWriter]:
    FakeWriter.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=FakeWriter))
    return FakeWriter.made


def plan(run_dir: Path, first_step: int = 0) -> Plan:
    return Plan("wt", run_dir, first_step, 16, 8, Coverage(()))


def test_numbers_become_scalars(tmp_path: Path, writers: list[FakeWriter]) -> None:
    sink = TensorBoard(TensorBoardOptions())
    sink.started(plan(tmp_path / "run"))
    sink.row(ROW)
    sink.finished(None)
    (writer,) = writers
    assert (writer.folder, writer.purge_step) == (str(tmp_path / "run" / "tensorboard"), None)
    scalars = [("epoch", 1.0, 8), ("loss/train", 2.5, 8), ("accuracy/test", 0.25, 8), ("wall_s", 3.5, 8)]
    assert writer.calls == [*scalars, "flush", "close"]


def test_a_resumed_run_hides_what_it_writes_again(tmp_path: Path, writers: list[FakeWriter]) -> None:
    sink = TensorBoard(TensorBoardOptions(log_dir=str(tmp_path / "logs")))
    sink.started(plan(tmp_path / "run", first_step=8))
    assert Path(writers[0].folder).parent == tmp_path / "logs"
    assert Path(writers[0].folder).name.startswith("run-")
    assert writers[0].purge_step == 9


def test_two_runs_of_one_name_are_kept_apart_and_each_finds_its_own_again(
    tmp_path: Path, writers: list[FakeWriter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run_dir in (Path("a/run"), Path("b/run"), tmp_path / "a" / "run"):
        TensorBoard(TensorBoardOptions(log_dir="logs")).started(plan(run_dir))
    first, second, again = (writer.folder for writer in writers)
    assert first != second
    assert again == first


def test_fg_train_feeds_it(tmp_path: Path, writers: list[FakeWriter], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_fg(*TRAIN, "--sink", "tensorboard")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")
    steps = [call[2] for call in writers[0].calls if call[0] == "loss/test"]
    assert steps == [3, 6]
    assert writers[0].calls[-1] == "close"


def test_without_tensorboard_the_training_goes_on_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = run_fg(*TRAIN, "--sink", "tensorboard")
    assert done.exit_code == 0
    assert "fg: warning: metric sink tensorboard of fg-plugin-tensorboard 0.1.0 failed" in done.stderr
    assert "TensorBoard is not installed" in done.stderr
    assert "pip install 'fg-plugin-tensorboard[tensorboard]'" in done.stderr
    assert (tmp_path / "run" / "result.json").exists()


@pytest.mark.filterwarnings("ignore")  # those of TensorBoard
def test_tensorboard_reads_what_its_own_writer_wrote(tmp_path: Path) -> None:
    reason = "TensorBoard is an optional dependency"
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason=reason)

    sink = TensorBoard(TensorBoardOptions())
    sink.started(plan(tmp_path))
    sink.row(ROW)
    sink.finished(None)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss/train")] == [(8, 2.5)]


def test_it_is_registered() -> None:
    assert load_registry().find("metric sink", "fg-plugin-tensorboard:tensorboard").entry.load() is TensorBoard


def test_registering_imports_no_torch() -> None:
    code = "import sys, fg_plugin_tensorboard as p; p.fg_metric_sinks(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
