"""Run and sweep directories as fg writes them, without a training: for the tests of reports."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fgcli.files import to_json
from fgcli.recipe import dump
from fgcli.recipe_keys import Recipe
from fgcli.runs.run_directory import RunDirectory
from fgcli.sweep.plan import PlannedTrial, plan
from fgcli.sweep.read import read_sweep
from fgcli.sweep.schema import dump_sweep

ENVIRONMENT: dict[str, Any] = {
    "fg": "0.1.0", "git_commit": None, "python": "3.11.7", "torch": "2.13.0", "device": "cpu",
    "device_name": "A processor, 2 cores (cpu)", "threads": 1, "plugins": {"method": "fgcli 0.1.0"},
}  # fmt: skip


def fake_run(
    path: Path,
    *,
    accuracy: float = 0.5,
    finished: bool = True,
    environment: Mapping[str, Any] | None = None,
    diagnostics: Callable[[float], dict[str, Any]] | None = None,
    result: Mapping[str, Any] | None = None,
    **recipe: Any,
) -> Path:
    """A run whose test accuracy is `accuracy` at its end, and whose training accuracy is 0.1 above that.

    `diagnostics` gives the layers of the record after an epoch; `result` overrides what result.json holds.
    """
    given: dict[str, Any] = {"width": 64, "epochs": 4, "eval_every": 1, "device": "cpu", "threads": 1, **recipe}
    resolved = Recipe.model_validate(given)
    run = RunDirectory(path)
    path.mkdir(parents=True)
    made = {**ENVIRONMENT, "command": ["fg", "train", "--out", path.name], **(environment or {})}
    run.environment_file.write_text(to_json(made))  # not by the class, which waits for the disk
    run.recipe_file.write_text(dump(resolved))
    epochs = resolved.epochs if finished else resolved.epochs // 2
    rows: list[dict[str, Any]] = [
        {"step": 8 * e, "epoch": float(e), **_numbers(accuracy, e / resolved.epochs), "wall_s": 0.1 * e}
        for e in range(resolved.eval_every, epochs + 1, resolved.eval_every)
    ]
    run.metrics_file.write_text("".join(to_json(row) + "\n" for row in rows))
    if diagnostics is not None:
        rows = [{"epoch": float(e), "step": 8 * e, "layers": diagnostics(e)} for e in range(epochs + 1)]
        run.diagnostics_file.write_text("".join(to_json(row) + "\n" for row in rows))
    if finished:
        timing = {"wall_s": 0.1 * epochs, "step_ms_median": 2.0, "step_ms_quartiles": [1.5, 2.5]}
        sizes = {"peak_memory_bytes": 100 * 2**20, "steps": 8 * epochs}
        numbers = _numbers(accuracy, 1.0)
        content = {"schema": 1, **resolved.model_dump(mode="json"), **numbers, **timing, **sizes, **(result or {})}
        run.result_file.write_text(to_json(content))
    return path


def _numbers(accuracy: float, share: float) -> dict[str, float]:
    test = 0.1 + (accuracy - 0.1) * (1 - math.exp(-4 * share)) / (1 - math.exp(-4)) if share < 1 else accuracy
    return {
        "train_accuracy": test + 0.1,
        "test_accuracy": test,
        "train_loss": 2.3 - 2 * test,
        "test_loss": 2.4 - 2 * test,
    }


def fake_sweep(
    folder: Path,
    recipe: str,
    accuracy: Callable[[PlannedTrial], float | None] = lambda trial: 0.5,
    **more: Callable[[PlannedTrial], Any],
) -> Path:
    """The sweep of a recipe's text with all its trials; those whose accuracy is None are missing.

    `more` gives arguments of fake_run by trial, over those of the plan.
    """
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    sweep, _ = read_sweep(folder / "recipe.yaml")
    (folder / "recipe.yaml").unlink()
    (folder / "sweep.yaml").write_text(dump_sweep(sweep), encoding="utf-8")
    (folder / "trials").mkdir()
    for trial in plan(sweep):
        reached = accuracy(trial)
        if reached is not None:
            own = {name: give(trial) for name, give in more.items()}
            fake_run(folder / "trials" / trial.name, accuracy=reached, **{**trial.overrides, **own})
    return folder


def timing(folder: Path, rows: Mapping[tuple[str, int], Mapping[str, Any]], device: str = "A processor") -> None:
    """Write timing.json: for a label and a width, what was measured."""
    listed = [{"label": label, "axes": {"width": width}, **row} for (label, width), row in rows.items()]
    content = {"schema": 1, "device": "cpu", "device_name": device, "threads": 1, "rows": listed}
    (folder / "timing.json").write_text(json.dumps(content))


SWEEP = """
title: Accuracy by width
description: Two methods.
base: {epochs: 4, eval_every: 1}
grid:
  methods: [{label: W̃ᵀ, method: wt}, {label: W̃⊥, method: wperp}]
  width: [64, 128]
  seed: [0, 1, 2]
views:
  - {kind: table, title: Tab. 3, value: test_accuracy, columns: width, baseline: W̃ᵀ,
     reference: {W̃ᵀ: {"64": 0.33, "128": 0.9}}}
  - {kind: figure, title: Fig. 2, x: width, y: test_accuracy, log: [x], reference: {W̃ᵀ: {"64": 0.33}}}
  - {kind: curve, title: Curves, y: train_loss, where: {width: 64}}
"""


def accuracy(trial: PlannedTrial) -> float:
    """W̃ᵀ: 0.3, 0.31, 0.32 over the seeds at width 64, the double at 128; W̃⊥: 0.05, 0.06, 0.07 above it."""
    seed = int(trial.axes["seed"])
    return (0.3 + 0.01 * seed) * int(trial.axes["width"]) / 64 + (0.05 + 0.01 * seed) * (trial.label == "W̃⊥")
