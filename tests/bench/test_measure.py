import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import tiny_recipe
from torch import nn

from fgcli.bench import measure, measuring
from fgcli.bench.flops import count_flops
from fgcli.bench.run import Job
from fgcli.commands.bench_display import show_estimate
from fgcli.errors import RunError
from fgcli.extend.registry import load_registry
from fgcli.runs.record import as_json
from fgcli.runs.results import Metrics, Result
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.timing import StepMemory, StepTiming, Timing
from fgcli.sweep.plan import PlannedTrial

WIDTHS = [(40, 8), (8, 8), (8, 10)]  # of the layers of tiny_recipe
PRODUCT = 2 * 32  # operations of a product by one weight, for a batch of 32


def test_operations_are_those_of_a_count_by_hand() -> None:
    forward = sum(PRODUCT * d_in * d_out for d_in, d_out in WIDTHS)
    back = sum(PRODUCT * d_in * d_out for d_in, d_out in WIDTHS[1:])  # through every layer but the first
    expected = {
        "backprop": forward + back + forward,  # the last: the weights' gradients
        "weight-perturbation": forward + forward + back,  # x W, x dW, and dx W through every layer but the first
        "activation-perturbation": forward + back + forward,
    }
    for method, operations in expected.items():
        stepper = measure.Stepper(tiny_recipe(method=method), load_registry())
        assert count_flops(stepper) == operations, method


def test_products_with_an_upstream_jacobian_that_has_no_matrix_are_counted() -> None:
    plain, wt = (
        count_flops(measure.Stepper(tiny_recipe(method=method, model="resmlp"), load_registry()))
        for method in ("activation-perturbation", "wt")
    )
    assert wt > plain


def test_factorisations_are_counted() -> None:
    import torch

    product = torch.ones(3, 5), torch.ones(5, 4)
    assert count_flops(lambda: torch.zeros(3, 4).addmm_(*product)) == 2 * 3 * 5 * 4
    assert count_flops(lambda: torch.linalg.cholesky_ex(torch.eye(6).expand(5, 6, 6))) == 5 * 6**3 // 3
    triangle = torch.eye(6).expand(5, 6, 6)
    right = torch.ones(5, 6, 2)
    assert count_flops(lambda: torch.linalg.solve_triangular(triangle, right, upper=False)) == 5 * 36 * 2
    assert count_flops(lambda: torch.linalg.svd(torch.ones(5, 4, 6), full_matrices=False)) == 5 * (14 * 6 * 16 + 8 * 64)
    assert count_flops(lambda: torch.linalg.eigh(triangle)) == 5 * 9 * 216
    assert count_flops(lambda: torch.linalg.qr(torch.ones(7, 3))) == 2 * (2 * 9 * 7 - 2 * 27 // 3)


def test_a_step_is_that_of_the_training_loop(tmp_path: Path) -> None:
    """Of a run whose only batch is the stepper's; the order of its samples does not matter to this method."""
    recipe = {"batch_size": 80, "epochs": 3, "method": "weight-perturbation"}
    stepper = measure.Stepper(tiny_recipe(**recipe), load_registry())
    for _ in range(3):
        stepper()
    trained = measure.begin(tiny_recipe(**recipe), tmp_path / "run", load_registry(), measure.Reporter())
    trained.run()
    weights, expected = stepper.assembly.model.state_dict(), trained.assembly.model.state_dict()
    for name, weight in weights.items():
        assert weight.allclose(expected[name], atol=1e-6), name


def test_recipes_are_measured_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "BLOCKS", (2, 3))
    monkeypatch.setattr(measure, "FLOPS_STEPS", 10)
    order: list[str] = []
    step = measure.Stepper.__call__

    def spied(stepper: measure.Stepper) -> float:
        order.append(stepper.assembly.recipe.method)
        step(stepper)
        return 0.125

    monkeypatch.setattr(measure.Stepper, "__call__", spied)
    rows = measure.measure_in_turn([tiny_recipe(method=name) for name in ("wt", "backprop")], load_registry())
    warm_up = ["wt"] * 8 + ["backprop"] * 8  # 1 s
    assert order[: 16 + 12] == warm_up + 3 * (["wt"] * 2 + ["backprop"] * 2)  # blocks of 0.2 s
    assert [row.timed_samples for row in rows] == [6, 6]
    assert [row.timed_step_ms for row in rows] == [pytest.approx(125)] * 2
    assert rows[1].step_flops == 2 * 2 * 32 * (320 + 64 + 80) + 2 * 32 * 144
    assert (rows[0].device, rows[0].threads) == ("cpu", 1)


def test_where_steps_differ_the_mean_says_what_a_run_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of feedback every fourth step has tangents, after the first ones, which all have."""
    monkeypatch.setattr(measure, "BLOCKS", (3, 3))
    recipe = tiny_recipe(method="activation-perturbation", feedback="local", feedback_every=4)
    step = measure.Stepper.__call__

    def spied(stepper: measure.Stepper) -> float:
        number = stepper._step
        step(stepper)
        return 0.01 if number >= 24 and number % 4 else 0.02

    monkeypatch.setattr(measure.Stepper, "__call__", spied)
    (row,) = measure.measure_in_turn([recipe], load_registry())
    assert row.timed_step_ms == pytest.approx(10)
    assert row.timed_step_ms_mean == pytest.approx(12.5, rel=0.05)


def test_memory_of_a_step_is_what_it_holds_beyond_what_it_found() -> None:
    row = measure.measure_memory(tiny_recipe(method="backprop", width=64), load_registry())
    activations, gradients = 4 * 32 * 2 * 64, 4 * (40 * 64 + 64 * 64 + 64 * 10)
    assert gradients + activations / 2 < (row.step_peak_bytes or 0) < 4 * (activations + gradients)
    assert (row.process_peak_bytes or 0) > 50 * 2**20


def test_memory_of_one_step_after_another_is_the_same_whatever_lies_where_older_tensors_were() -> None:
    model, x = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 300)), torch.randn(10, 300)

    def step() -> None:
        model.zero_grad()
        model(x).sum().backward()

    found = set()
    for number in range(8):
        step()
        others = [torch.empty(300, 300) for _ in range(number % 4)]
        found.add(measure.peak_of(step, torch.device("cpu")))
        del others
    assert len(found) == 1
    assert found.pop() > 2 * 4 * 300**2


def test_a_probe_leaves_nothing_and_counts_every_part() -> None:
    recipe = tiny_recipe(method="wt", epochs=10, eval_every=5, diagnostics=["bias"], diagnostics_every=2)
    row = measure.probe(recipe, load_registry())
    assert row["seconds"] > 0
    assert list(Path.cwd().iterdir()) == [Path.cwd() / "sweep.yaml"]
    training: Any = type("Training", (), {"steps_per_epoch": 3})
    assert measure._counts(recipe, training) == (30, 3, 6)


def job(folder: Path, name: str, **recipe: Any) -> Job:
    return Job(name, tiny_recipe(**recipe), folder / "r.yaml", RunDirectory(folder / name), folder / "log")


def trials(folder: Path) -> list[tuple[PlannedTrial, Job]]:
    return [
        (
            PlannedTrial(f"{label}-{width}-{seed}", label, {"width": width, "seed": seed}, {}, {}),
            job(folder, f"{label}-{width}-{seed}", method=label, width=width),
        )
        for width in (8, 16)
        for label in ("wt", "backprop")
        for seed in (0, 1)
    ]


MACHINE: dict[str, Any] = {"device": "cpu", "device_name": "a", "threads": 1, "torch": "2"}


def test_each_method_of_a_point_in_one_process_and_memory_in_one_each(tmp_path, monkeypatch) -> None:
    calls: list[tuple[str, list[str]]] = []

    def fake(mode: str, jobs: list[Job]) -> list[dict[str, Any]]:
        calls.append((mode, [one.name for one in jobs]))
        row = {"timed_step_ms": 1.0, **MACHINE} if mode == "turn" else {"step_peak_bytes": 7}
        return [row | ({"threads": one.threads} if mode == "turn" else {}) for one in jobs]

    monkeypatch.setattr(measuring, "measure", fake)
    file = tmp_path / "timing.json"
    measuring.time_steps(trials(tmp_path), file, lambda _: None)
    assert calls == [
        ("turn", ["wt-8-0", "backprop-8-0"]),
        ("memory", ["wt-8-0"]),
        ("memory", ["backprop-8-0"]),
        ("turn", ["wt-16-0", "backprop-16-0"]),
        ("memory", ["wt-16-0"]),
        ("memory", ["backprop-16-0"]),
    ]
    timing = json.loads(file.read_text())
    last = Timing("backprop", {"width": 16}, StepTiming(timed_step_ms=1.0, **MACHINE), StepMemory(7))
    assert timing["rows"][3] == as_json(last)
    calls.clear()
    measuring.time_steps(trials(tmp_path), file, lambda _: None)
    assert calls == []

    # Elsewhere, and one method on two threads; what an older file has, with the machine beside its rows, stays.
    timing = MACHINE | {"schema": 1, "rows": [{"label": "wt", "axes": {"width": 8}, "timed_step_ms": 3.0}]}
    file.write_text(json.dumps(timing))
    monkeypatch.setitem(MACHINE, "device_name", "b")
    some = trials(tmp_path)[4:]
    some[2:] = [(trial, job(tmp_path, trial.name, method="backprop", threads=2)) for trial, _ in some[2:]]
    measuring.time_steps(some, file, lambda _: None)
    found = [(row["label"], row["device_name"], row["threads"]) for row in json.loads(file.read_text())["rows"]]
    assert found == [("wt", "a", 1), ("wt", "b", 1), ("backprop", "b", 2)]


def test_an_estimate_is_from_finished_runs_where_there_are_some(tmp_path, monkeypatch, capsys) -> None:
    def fake(mode: str, jobs: list[Job]) -> list[dict[str, Any]]:
        if any(one.name == "wt-16-0" for one in jobs):
            raise RunError("the loss is not finite")
        return [{"seconds": 5.0} for _ in jobs]

    monkeypatch.setattr(measuring, "measure", fake)
    monkeypatch.setattr(measuring, "START_S", 3.0)
    some = trials(tmp_path)
    for name, wall in (("wt-8-0", 10.0),):
        (tmp_path / name).mkdir()
        metrics = Metrics(train_accuracy=0.5, test_accuracy=0.4, train_loss=1.0, test_loss=1.0)
        RunDirectory(tmp_path / name).write_result(
            Result(recipe={}, steps=1, metrics=metrics, wall_s=wall, step_ms_median=1.0, peak_memory_bytes=1)
        )
    found = measuring.estimate(some)
    assert found[some[0][0].group] == measuring.Estimate(13.0, "finished runs")
    assert found[some[2][0].group] == measuring.Estimate(8.0, "a few steps")
    assert found[some[4][0].group] == measuring.Estimate(None, "the loss is not finite")
    show_estimate([], some, None)
    shown = capsys.readouterr().out
    assert re.search(r"wt-16-1 +│ unknown │ the loss is not finite", shown)
    assert "7 of 8 trials are missing: about 45 s of computing without the 2 of unknown time;" in shown


def test_a_search_is_tried_once_for_all_its_learning_rates(tmp_path, monkeypatch) -> None:
    asked: list[str] = []

    def fake(mode: str, jobs: list[Job]) -> list[dict[str, Any]]:
        asked.extend(one.name for one in jobs)
        return [{"seconds": 5.0} for _ in jobs]

    monkeypatch.setattr(measuring, "measure", fake)
    some = [
        (replace(trial, name=f"{trial.name}-{lr}", axes={**trial.axes, "lr": lr}), job(tmp_path, f"{trial.name}-{lr}"))
        for trial, _ in trials(tmp_path)
        for lr in (0.1, 0.2)
    ]
    show_estimate(some, [], None)
    assert asked == ["wt-8-0-0.1", "backprop-8-0-0.1", "wt-16-0-0.1", "backprop-16-0-0.1"]


@pytest.mark.slow
def test_measure_asks_a_process(tmp_path) -> None:
    (row,) = measuring.measure("probe", [job(tmp_path, "one", method="wt", epochs=1)])
    assert row["seconds"] > 0
