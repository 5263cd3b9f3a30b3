"""A run's folder: recipe.yaml, environment.json, metrics.jsonl, checkpoints/ and, written last, result.json.

A folder with a recipe and a result is a finished run; with a recipe alone it is an unfinished one. Nothing here
imports torch, so that reports can read runs quickly.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any

from fgcli.errors import RunError, UsageError
from fgcli.files import read_json, to_json, write_atomically
from fgcli.training.rows import append_row, read_rows, rewind_rows


class Content(Enum):
    """What a path holds, as far as a new run is concerned."""

    NOTHING = "nothing"
    FINISHED_RUN = "a finished run"
    UNFINISHED_RUN = "an unfinished run"
    SOMETHING_ELSE = "something else"


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run. Made by `create` or `open_run`."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def diagnostics_file(self) -> Path:
        """There where the recipe asks for diagnostics."""
        return self.path / "diagnostics.jsonl"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def describe(self, recipe: str, environment: Mapping[str, object]) -> None:
        """Write down what is run and where. The recipe comes last: with it the folder is a run."""
        write_atomically(self.environment_file, to_json(environment) + "\n")
        write_atomically(self.recipe_file, recipe)

    def append_metrics(self, row: Mapping[str, object]) -> None:
        append_row(self.metrics_file, row)

    def read_metrics(self) -> tuple[list[dict[str, Any]], bool]:
        return read_rows(self.metrics_file)

    def rewind_metrics(self, step: int) -> tuple[list[dict[str, Any]], bool]:
        return rewind_rows(self.metrics_file, step)

    def write_result(self, result: Mapping[str, object]) -> None:
        """Write result.json, which makes this a finished run."""
        write_atomically(self.result_file, to_json(result) + "\n")

    def read_result(self) -> dict[str, Any]:
        """The content of result.json. RunError when it is missing or broken."""
        try:
            return read_json(self.result_file)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read {self.result_file}: {error}") from error


def content(path: Path) -> Content:
    """What a path holds. A file, or a folder that holds anything but a run, is something else."""
    if not os.path.lexists(path):
        return Content.NOTHING
    if not path.is_dir():
        return Content.SOMETHING_ELSE
    run = RunDirectory(path)
    if run.recipe_file.exists():
        return Content.FINISHED_RUN if run.result_file.exists() else Content.UNFINISHED_RUN
    return Content.SOMETHING_ELSE if any(path.iterdir()) else Content.NOTHING


def check_free(path: Path) -> None:
    """Refuse an --out that is taken. Writes nothing."""
    found = content(path)
    if found is Content.FINISHED_RUN:
        raise UsageError(f"--out {path} holds a finished run; give a new folder, or remove that one")
    if found is Content.UNFINISHED_RUN:
        raise UsageError(f"--out {path} holds an unfinished run; go on with --resume {path}, or give a new folder")
    if found is Content.SOMETHING_ELSE:
        raise UsageError(f"--out {path} is not an empty folder; give a new folder or an empty one")


def create(out: Path | None, label: str) -> RunDirectory:
    """The folder of a new run: `out`, or a fresh one runs/LABEL-TIME in the working directory.

    Of several processes that ask at once for the same folder one gets it, and the others the error of a taken one.
    """
    try:
        if out is None:
            return RunDirectory(_fresh(Path("runs"), label))
        check_free(out)
        out.mkdir(parents=True, exist_ok=True)
        # Making a folder either makes it or fails, in one act: whoever makes this one owns the run.
        RunDirectory(out).checkpoints.mkdir()
    except FileExistsError as error:
        raise UsageError(f"--out {out} was taken by another run at this moment; give a new folder") from error
    except OSError as error:
        raise UsageError(f"cannot make the run directory {error.filename}: {error.strerror}") from error
    return RunDirectory(out)


def _fresh(parent: Path, label: str) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    base = f"{slug(label)}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while True:
        path = parent / (base if number == 1 else f"{base}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            continue
        RunDirectory(path).checkpoints.mkdir()
        return path


def slug(text: str) -> str:
    """A name as one harmless part of a path: letters, digits, dots, hyphens and underscores, no leading dot."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "run"


def open_run(path: Path) -> RunDirectory:
    """The run in a folder, finished or not. UsageError when there is none."""
    if content(path) not in (Content.FINISHED_RUN, Content.UNFINISHED_RUN):
        raise UsageError(f"{path} holds no run: there is no file {path / 'recipe.yaml'}")
    return RunDirectory(path)


def open_unfinished(path: Path) -> RunDirectory:
    """The run to resume. UsageError when the folder holds none, or a finished one."""
    if content(path) is Content.FINISHED_RUN:
        raise UsageError(f"--resume {path}: this run is finished; its result is in {path / 'result.json'}")
    if content(path) is not Content.UNFINISHED_RUN:
        raise UsageError(f"--resume {path}: holds no run, as there is no file {path / 'recipe.yaml'}")
    return RunDirectory(path)
