"""One run as a report sees it: read whole, or refused with the reason. Imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fgcli.errors import FgError, RunError
from fgcli.extend.explain import first_fault
from fgcli.recipe import read_recipe
from fgcli.recipe_keys import Recipe
from fgcli.runs.diagnostics import DiagnosticsRow
from fgcli.runs.environment import Environment
from fgcli.runs.results import MetricsRow, Result
from fgcli.runs.run_directory import RunDirectory


class Unreadable(Exception):
    """Why a folder is no run that can be reported: one clause for people."""


@dataclass(frozen=True)
class Run:
    """What a run directory holds."""

    path: Path
    recipe: Mapping[str, Any]
    recipe_text: str
    environment: Environment
    environment_fault: str
    """Why `environment` is empty; "" where it is not."""
    result: Result | None
    """None while the run is unfinished."""
    metrics: tuple[MetricsRow, ...]
    diagnostics: tuple[DiagnosticsRow, ...]

    @property
    def machine(self) -> str:
        """Device and threads, which every time of it depends on."""
        return self.environment.machine


def read_run(path: Path) -> Run:
    """The run in a folder, finished or not. Unreadable for anything else."""
    files = RunDirectory(path)
    if not files.recipe_file.is_file():
        raise Unreadable(f"no run: it has no {files.recipe_file.name}")
    environment, fault = Environment({}), ""
    try:
        try:
            environment = files.read_environment()
        except RunError as error:
            fault = _clause(path, error)
        return Run(
            path,
            _recipe(files.recipe_file),
            files.recipe_file.read_text(encoding="utf-8"),
            environment,
            fault,
            files.read_result() if files.result_file.exists() else None,
            tuple(files.read_metrics()),
            tuple(files.read_diagnostics()),
        )
    except (FgError, OSError) as error:
        raise Unreadable(_clause(path, error)) from error


def _clause(path: Path, error: Exception) -> str:
    """The error, its files named as in the run's folder."""
    return str(error).replace(f"{path}{os.sep}", "")


def _recipe(file: Path) -> dict[str, Any]:
    data = read_recipe(file).data
    try:
        return Recipe.model_validate(data).model_dump(mode="json")
    except ValidationError as error:
        where, sentence = first_fault(error, data)
        raise Unreadable(f"{file.name}: {'.'.join(map(str, where)) or 'the recipe'} {sentence}") from error
