"""One run as a report sees it: read whole, or refused with the reason. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from pydantic import ValidationError

from fgcli.errors import FgError
from fgcli.extend.explain import first_fault, shown
from fgcli.files import read_json
from fgcli.recipe import Recipe, read_recipe
from fgcli.runs.run_directory import RunDirectory

RESULT_SCHEMA = 1
METRICS = ("train_accuracy", "test_accuracy", "train_loss", "test_loss")
LARGEST = 1e100  # no run measures more; and beyond it means and their squares overflow
RESULTS = (*METRICS, "steps", "wall_s", "step_ms_median", "peak_memory_bytes")


class Unreadable(Exception):
    """Why a folder is no run that can be reported: one clause for people."""


@dataclass(frozen=True)
class Run:
    """What a run directory holds. Numbers in it are finite, rows have what fg writes into each."""

    path: Path
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Mapping[str, Any]
    environment_fault: str
    """Why `environment` is empty; "" where it is not."""
    result: Mapping[str, Any] | None
    """None while the run is unfinished."""
    metrics: tuple[Mapping[str, Any], ...]
    diagnostics: tuple[Mapping[str, Any], ...]

    @property
    def machine(self) -> str:
        """Device and threads, which every time of it depends on."""
        return machine_in(self.environment)


def read_run(path: Path) -> Run:
    """The run in a folder, finished or not. Unreadable for anything else."""
    files = RunDirectory(path)
    try:
        if not files.recipe_file.is_file():
            raise Unreadable("no run: it has no recipe.yaml")
        recipe = read_recipe(files.recipe_file)
        environment, fault = _environment(files.environment_file)
        return Run(
            path,
            _recipe(recipe.data),
            files.recipe_file.read_text(encoding="utf-8"),
            environment,
            fault,
            _result(files.result_file),
            tuple(_metrics_row(row, files.metrics_file) for row in files.read_metrics()[0]),
            tuple(_diagnostics_row(row, files.diagnostics_file) for row in files.read_diagnostics()[0]),
        )
    except (FgError, OSError) as error:
        raise Unreadable(str(error)) from error


def machine_in(content: Mapping[str, Any]) -> str:
    """Device and threads, as environment.json and timing.json name them."""
    device, threads = content.get("device_name"), content.get("threads")
    if not isinstance(device, str) or not isinstance(threads, int):
        return "unknown device"
    return f"{device}, {threads} {'thread' if threads == 1 else 'threads'}"


def is_number(value: object) -> TypeGuard[int | float]:
    """A finite number whose square is one, too, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _recipe(data: Mapping[str, object]) -> dict[str, Any]:
    try:
        return Recipe.model_validate(data).model_dump(mode="json")
    except ValidationError as error:
        where, sentence = first_fault(error, data)
        raise Unreadable(f"recipe.yaml: {'.'.join(map(str, where)) or 'the recipe'} {sentence}") from error


def _environment(path: Path) -> tuple[dict[str, Any], str]:
    try:
        content = read_json(path)
        return (content, "") if isinstance(content, dict) else ({}, "environment.json holds no object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        return {}, f"environment.json cannot be read: {reason}"


def _result(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        result = read_json(path)
    except ValueError as error:
        raise Unreadable(f"result.json cannot be read: {error}") from error
    if not isinstance(result, dict) or result.get("schema") != RESULT_SCHEMA:
        raise Unreadable(f"result.json is none of fg's: it has no schema {RESULT_SCHEMA}")
    _require_numbers(result, RESULTS, "result.json")
    return result


def _metrics_row(row: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    _require_numbers(row, ("step", "epoch", "wall_s", *METRICS), path.name)
    return row


def _diagnostics_row(row: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    _require_numbers(row, ("step", "epoch"), path.name)
    layers = row.get("layers")
    if not isinstance(layers, dict) or not all(isinstance(layer, dict) for layer in layers.values()):
        raise Unreadable(f"{path.name}: a row without layers")
    for layer in layers.values():
        curve = layer.get("overlap")
        if curve is not None and not _is_curve(curve):
            raise Unreadable(f"{path.name}: an overlap that is no curve over k")
    return row


def _is_curve(curve: Any) -> bool:
    if not isinstance(curve, dict):
        return False
    columns = [curve.get(name) for name in ("k", "overlap", "squared")]
    return all(isinstance(column, list) and all(map(is_number, column)) for column in columns) and (
        len({len(column) for column in columns if isinstance(column, list)}) == 1
    )


def _require_numbers(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in names:
        if not is_number(row.get(name)):
            what = "has no" if name not in row else f"has {shown(row[name])} as"
            raise Unreadable(f"{where} {what} {name}")
