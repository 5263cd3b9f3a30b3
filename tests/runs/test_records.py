"""What runs and sweeps write, as it stands on disk: the names that users and their scripts rely on."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest

from fgcli.errors import RunError
from fgcli.runs.diagnostics import DiagnosticsRow, LayerRow, OverlapCurve
from fgcli.runs.quantities import QUANTITIES, VALUE_KEYS
from fgcli.runs.quantity import Quantity
from fgcli.runs.record import as_json, name_of, numbers, quantities, read_record
from fgcli.runs.results import Metrics, MetricsRow, Result
from fgcli.runs.sweep_directory import FailedAttempt, StartedAgain, SweepDirectory
from fgcli.runs.timing import StepMemory, StepTiming, Timing, read_timing, write_timing
from fgcli.runs.tuned import Choice, read_tuned, write_tuned

FILE = Path("some.json")
METRICS = {"train_accuracy": 0.5, "test_accuracy": 0.25, "train_loss": 1.0, "test_loss": 2.0}
RESULT = {
    "schema": 1, "method": "wt", "width": 8, "steps": 12, "skipped_updates": 1, **METRICS, "best_step": 9,
    "wall_s": 1.5, "step_ms_median": 1.0, "step_ms_quartiles": [0.5, 1.25], "step_ms_mean": 1.1,
    "peak_memory_bytes": 2**20,
    "sites": ["hidden1"], "perturbed": [], "frozen": ["scale"], "run_dir": "run",
}  # fmt: skip
CURVE = {"k": [1, 2], "overlap": [0.5, 1.0], "squared": [0.25, 1.0]}
LAYERS = {"hidden1": {"bias": 0.5, "cosine": None, "overlap": CURVE}, "output": {"bias": 1.0}}


def test_a_row_of_metrics() -> None:
    content = {"step": 6, "epoch": 2.0, **METRICS, "wall_s": 1.5}
    row = read_record(MetricsRow, {**content, "of a newer fg": 1}, FILE)
    assert row == MetricsRow(
        6, 2.0, Metrics(train_accuracy=0.5, test_accuracy=0.25, train_loss=1.0, test_loss=2.0), 1.5
    )
    assert list(as_json(row).items()) == list(content.items())


def test_a_result_has_the_keys_of_its_recipe_beside_its_own() -> None:
    result = Result.from_json(RESULT, FILE)
    assert result.recipe == {"method": "wt", "width": 8}
    assert (result.metrics.test_loss, result.frozen, result.step_ms_quartiles) == (2.0, ("scale",), (0.5, 1.25))
    assert list(result.as_json().items()) == list(RESULT.items())
    older = {key: value for key, value in RESULT.items() if key not in ("skipped_updates", "best_step", "run_dir")}
    assert Result.from_json(older, FILE).skipped_updates == 0


def test_samples_left_out_are_on_disk_where_there_are_some() -> None:
    result = Result.from_json({**RESULT, "test_left_out": 3}, FILE)
    assert (result.metrics.train_left_out, result.metrics.test_left_out) == (0, 3)
    assert result.as_json() == {**RESULT, "test_left_out": 3}


def test_a_row_of_diagnostics() -> None:
    content = {"epoch": 2.0, "step": 6, "layers": LAYERS}
    row = DiagnosticsRow.from_json(content, FILE)
    assert row.layers["hidden1"] == LayerRow(
        {"bias": 0.5, "cosine": None}, OverlapCurve((1, 2), (0.5, 1.0), (0.25, 1.0))
    )
    assert row.layers["hidden1"].recorded == {"bias", "cosine", "overlap"}
    assert json.dumps(row.as_json()) == json.dumps(content)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "some.json is none of fg's: it has no schema 1"),
        ({"steps": True}, "some.json has true as steps"),
        ({"wall_s": 10**400}, r"some.json has 10+…? as wall_s"),
        ({"test_loss": None}, "some.json has empty as test_loss"),
        ({"run_dir": 3}, "some.json has 3 as run_dir"),
    ],
)
def test_a_result_that_fg_did_not_write_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=said):
        Result.from_json(RESULT | change, FILE)
    with pytest.raises(RunError, match=r"some.json has no wall_s"):
        Result.from_json({key: value for key, value in RESULT.items() if key != "wall_s"}, FILE)


@pytest.mark.parametrize("layers", [None, [], {"hidden1": 1}, {"hidden1": {"overlap": {**CURVE, "k": [1]}}}])
def test_diagnostics_that_fg_did_not_write_are_refused(layers: Any) -> None:
    with pytest.raises(RunError, match=r"a row without layers|an overlap that is no curve over k"):
        DiagnosticsRow.from_json({"epoch": 0.0, "step": 0, "layers": layers}, FILE)


def test_failures_count_until_the_trial_is_started_again(tmp_path: Path) -> None:
    sweep = SweepDirectory(tmp_path)
    sweep.note(FailedAttempt("a", 1, 1, ("boom",)))
    sweep.note(FailedAttempt("b", 2, -9))
    sweep.note(StartedAgain("a", 1))
    assert sweep.failures() == {"b": FailedAttempt("b", 2, -9, ())}
    assert [json.loads(line) for line in sweep.failed_file.read_text().splitlines()] == [
        {"trial": "a", "attempt": 1, "exit_code": 1, "last_lines": ["boom"]},
        {"trial": "b", "attempt": 2, "exit_code": -9, "last_lines": []},
        {"trial": "a", "attempt": 1, "started_again": True},
    ]


def test_timings_come_back(tmp_path: Path) -> None:
    steps = StepTiming(2.0, (1.5, 2.5), 10, 3e6, "cpu", "A (cpu)", 1, "2.13.0", 2.25)
    rows = [Timing("wt", {"width": 8}, steps, StepMemory(7, 70))]
    write_timing(tmp_path / "timing.json", rows)
    assert read_timing(tmp_path / "timing.json") == rows
    assert numbers(rows[0]) == {
        "timed_step_ms": 2.0, "timed_step_ms_mean": 2.25, "step_flops": 3e6,
        "step_peak_bytes": 7, "process_peak_bytes": 70,
    }  # fmt: skip
    (tmp_path / "timing.json").write_text('{"schema": 2, "rows": []}')
    with pytest.raises(RunError, match=r"cannot read .*timing.json: it has schema 2, and not 1"):
        read_timing(tmp_path / "timing.json")


def test_choices_of_other_groups_stay(tmp_path: Path) -> None:
    file = tmp_path / "tuned.json"
    first, second = (
        Choice("wt", {"width": 8}, {0.1: 1.0, 0.2: None}, 0.1),
        Choice("wt", {"width": 16}, {0.1: None}, None),
    )
    again = Choice("wt", {"width": 8}, {0.3: 0.5}, 0.3)
    for chosen in ([first, second], [again]):
        write_tuned(file, "train_loss", [100], chosen)
    assert read_tuned(file) == ("train_loss", [second, again])
    content = json.loads(file.read_text())
    assert (content["schema"], content["by"], content["seeds"]) == (1, "train_loss", [100])
    assert content["rows"][1] == {
        "label": "wt", "axes": {"width": 8}, "lr": 0.3, "candidates": [{"lr": 0.3, "mean": 0.5}],
    }  # fmt: skip


def test_a_quantity_knows_the_field_that_it_is_of() -> None:
    assert all(quantity.key == key and quantity.title for key, quantity in QUANTITIES.items())
    assert set(VALUE_KEYS) < set(QUANTITIES)
    assert name_of(Metrics.train_loss) == "train_loss"


def test_a_new_metric_is_one_field_of_its_record() -> None:
    @dataclass(frozen=True, slots=True)
    class Wider:
        perplexity: Annotated[float, Quantity("perplexity", "lower")]
        note: str = ""

    globals()["Wider"] = Wider
    assert quantities(Wider)["perplexity"] == Quantity("perplexity", "lower", key="perplexity")
    assert numbers(read_record(Wider, {"perplexity": 3}, FILE)) == {"perplexity": 3}
