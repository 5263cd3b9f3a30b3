"""The name of a file or of a field of a run is spelled in fgcli/runs alone."""

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from fgcli.runs.diagnostics import DIAGNOSTICS, DiagnosticsRow, OverlapCurve
from fgcli.runs.quantities import QUANTITIES
from fgcli.runs.results import Metrics, MetricsRow, Result
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import FailedAttempt, StartedAgain, SweepDirectory
from fgcli.runs.timing import StepMemory, StepTiming, Timing

FGCLI = Path(__file__).parents[2] / "fgcli"
RECORDS = (
    Metrics, MetricsRow, Result, DiagnosticsRow, OverlapCurve, StepTiming, StepMemory, Timing, FailedAttempt,
    StartedAgain,
)  # fmt: skip
PATHS = [value for where in (RunDirectory(Path()), SweepDirectory(Path())) for name in dir(where)
         if isinstance(value := getattr(where, name), Path)]  # fmt: skip
FILES = {path.name for path in PATHS if path.suffix}
FIELDS = {*QUANTITIES, *DIAGNOSTICS, *(field.name for record in RECORDS for field in fields(record))}

# Words of recipes, of views and of everyday language that some field is called, too.
WORDS = {"axes", "bias", "device", "epoch", "k", "label", "layers", "memory", "overlap", "processes", "recipe",
         "squared", "step", "steps", "threads", "torch", "trial"}  # fmt: skip
# Moments are computed, and shown by a command of their own, under the names that a run's record has: these know no run.
OF_MOMENTS = ("diagnostics/", "commands/analyze_moments.py")
# A checkpoint has keys of its own.
OF_CHECKPOINTS = {("training/state.py", "wall_s")}
# A loss and a learning-rate schedule that are called as a moment is.
OF_PLUGS = {("builtin.py", "mse"), ("training/losses.py", "mse"), ("builtin.py", "cosine")}


def spelled(source: str) -> Iterator[str]:
    """The names of files and fields that stand in a source as text; a path's last part counts."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.rpartition("/")[2]
            if name in FILES or node.value in FIELDS - WORDS:
                yield name


def test_names_are_spelled_once() -> None:
    sources = [path for path in FGCLI.rglob("*.py") if path.parent.name != "runs"]
    found = {(str(path.relative_to(FGCLI)), name) for path in sources for name in spelled(path.read_text("utf-8"))}
    assert {(file, name) for file, name in found if not file.startswith(OF_MOMENTS)} == OF_CHECKPOINTS | OF_PLUGS
    assert {name for file, name in found if file.startswith(OF_MOMENTS)} <= set(DIAGNOSTICS)
    assert len(sources) > 100
    assert {"recipe.yaml", "result.json", "metrics.jsonl", "sweep.yaml", "timing.json"} < FILES


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("row['train_loss']", "train_loss"),
        ("folder / 'result.json'", "result.json"),
        ("open(f'{folder}/sweep.yaml')", "sweep.yaml"),
        ("print(f'{result[\"peak_memory_bytes\"]}')", "peak_memory_bytes"),
    ],
)
def test_one_more_would_be_seen(source: str, name: str) -> None:
    assert list(spelled(source)) == [name]
