"""Tiny runs for the tests: a fraction of a second each."""

from pathlib import Path
from typing import Any

from light_runs import fg as fg
from light_runs import untimed as untimed

from fgcli.extend.registry import load_registry
from fgcli.recipe import resolve
from fgcli.recipe_keys import Recipe
from fgcli.runs.rows import read_rows
from fgcli.runs.run_directory import RunDirectory
from fgcli.training.reporter import Reporter
from fgcli.training.start import begin, resume

TINY: dict[str, Any] = {
    "dataset_options": {"num_samples": 100},  # 80 for training, 20 for testing
    "width": 8,
    "depth": 2,
    "batch_size": 32,  # three steps an epoch, the last of 16 samples
    "epochs": 4,
    "eval_every": 1,
    "lr": 0.01,
    "threads": 1,
    "device": "cpu",
}
FLAGS = ["--dataset-option", "num_samples=100", "--width", "8", "--depth", "2", "--batch-size", "32", "--epochs", "4"]
FLAGS += ["--eval-every", "1", "--lr", "0.01", "--threads", "1", "--device", "cpu"]


class Stopper(Reporter):
    """Interrupts a run after a step, before its evaluation."""

    def __init__(self, step: int) -> None:
        self.step = step

    def stepped(self, step: int, loss: float) -> None:
        if step == self.step:
            raise KeyboardInterrupt


class Listener(Reporter):
    """Keeps the warnings and the losses."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.losses: list[float] = []

    def warned(self, message: str) -> None:
        self.warnings.append(message)

    def stepped(self, step: int, loss: float) -> None:
        self.losses.append(loss)


def tiny_recipe(**changes: Any) -> Recipe:
    return resolve(None, TINY | changes, load_registry())


def run(path: Path, reporter: Any = None, **changes: Any) -> dict[str, Any]:
    """Train a tiny recipe into `path`; what is in its result.json."""
    return begin(tiny_recipe(**changes), path, load_registry(), reporter or Reporter()).run().as_json()


def go_on(path: Path, reporter: Any = None) -> dict[str, Any]:
    """Resume the run in `path`; what is in its result.json."""
    return resume(path, None, {}, load_registry(), reporter or Reporter()).run().as_json()


def rows(path: Path) -> list[dict[str, Any]]:
    return read_rows(RunDirectory(path).metrics_file)[0]


def weights(path: Path) -> bytes:
    """The newest checkpoint's tensors, without the step times."""
    from safetensors.torch import load_file, save

    tensors = load_file(max((path / "checkpoints").glob("*.safetensors")))
    return save({name: tensor for name, tensor in tensors.items() if not name.startswith("training.")})


def make(path, reporter=None, **changes):
    return begin(tiny_recipe(**changes), path, load_registry(), reporter or Listener())
