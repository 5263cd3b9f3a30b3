"""One run as a report sees it: read whole, or refused with the reason. Imports no torch."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fgcli.errors import FgError, RunError
from fgcli.extend.explain import first_fault
from fgcli.recipe import parse_recipe
from fgcli.recipe_keys import Recipe
from fgcli.runs.diagnostics import DiagnosticsRow
from fgcli.runs.environment import Environment
from fgcli.runs.results import MetricsRow, Result
from fgcli.runs.run_directory import RunDirectory
from fgcli.sweep.schema import SEED
from fgcli.yaml_reader import read_text


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
    def is_where_it_was(self) -> bool:
        """Whether its folder has the name that it was trained under, as a copy beside it has not."""
        return self.result is not None and Path(self.result.run_dir).name == self.path.name

    @property
    def machine(self) -> str:
        """Device and threads, which every time of it depends on."""
        return self.environment.machine


def run_at(path: Path) -> Run:
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
        text = read_text(files.recipe_file)
        return Run(
            path,
            _recipe(text, files.recipe_file.name),
            text,
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


_SEED = re.compile(rf"^{SEED}: ([0-9]{{1,18}})$", re.MULTILINE)
_NO_SEED = 2**63 - 1


def _recipe(text: str, name: str) -> Mapping[str, Any]:
    """What a recipe says. Of those that differ in the seed alone, as a sweep has by thousands, one is parsed."""
    if len(seeds := _SEED.findall(text)) == 1:
        alike = _parsed(_SEED.sub(f"{SEED}: {_NO_SEED}", text), name)
        if alike[SEED] == _NO_SEED:
            return {**alike, SEED: int(seeds[0])}
    return _parsed(text, name)


@lru_cache(1024)
def _parsed(text: str, name: str) -> Mapping[str, Any]:
    data = parse_recipe(text, name).data
    try:
        return Recipe.model_validate(data).model_dump(mode="json")
    except ValidationError as error:
        where, sentence = first_fault(error, data)
        raise Unreadable(f"{name}: {'.'.join(map(str, where)) or 'the recipe'} {sentence}") from error
