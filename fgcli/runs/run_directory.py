"""A run's folder: recipe.yaml, environment.json, model.json, metrics.jsonl, checkpoints/ and, last, result.json.

A folder with a recipe and a result is a finished run; with a recipe alone it is an unfinished one. Whoever writes
into it holds its lock. Nothing here imports torch, so that reports can read runs quickly.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from fgcli.errors import RunError, UsageError, WriteError
from fgcli.files import half_written, read_json, refuse_impossible, to_json, write_atomically, writing
from fgcli.runs import lock
from fgcli.runs.diagnostics import DiagnosticsRow
from fgcli.runs.environment import Environment
from fgcli.runs.lock import RunLock
from fgcli.runs.meeting import Rank
from fgcli.runs.record import as_json, read_record
from fgcli.runs.results import MetricsRow, Result
from fgcli.runs.rows import append_row, read_rows, rewind_rows
from fgcli.shell import command_line


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What a run's network takes and gives, enough to use it where its data are not: model.json."""

    input_shape: tuple[int, ...]
    outputs: int
    classes: int
    """As its dataset has it."""
    labels: bool
    """Whether targets are classes."""
    mean: float | tuple[Any, ...]
    """Inputs are standardised by (x - mean) / deviation; nested lists where these are no single numbers."""
    deviation: float | tuple[Any, ...]
    class_names: tuple[str, ...] = ()
    tokens: bool = False
    """Whether inputs are tokens, of which there is no mean."""
    input_names: tuple[str, ...] = ()
    """The columns of a table that the inputs are."""


class _In:
    """A file of that name in the folder of a run."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, run: "RunDirectory", _: type) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run. Made by `create` or `open_unfinished`, which lock it, or by `read_run`, to be read."""

    path: Path
    lock: RunLock | None = field(default=None, compare=False)
    plugins: tuple[Path, ...] = field(default=(), compare=False)
    """Plugin files that the run needs."""
    own_code: bool = field(default=False, compare=False)
    """Whether it needs a module of the user's own."""

    recipe_file = _In("recipe.yaml")
    environment_file = _In("environment.json")
    model_file = _In("model.json")
    metrics_file = _In("metrics.jsonl")
    diagnostics_file = _In("diagnostics.jsonl")
    """There where the recipe asks for diagnostics."""
    result_file = _In("result.json")
    checkpoints = _In("checkpoints")

    @property
    def resume_command(self) -> str:
        rank = Rank.of(os.environ)
        several = () if rank is None or rank.meeting is None else ("--processes", rank.size)
        return command_line("train", "--resume", self.path, *several, plugins=self.plugins, own_code=self.own_code)

    @contextmanager
    def telling_how_to_resume(self) -> Iterator[None]:
        """Add to a WriteError how the run goes on, once what failed can be written."""
        try:
            yield
        except WriteError as error:
            raise RunError(f"{error}; once it can be, go on with: {self.resume_command}") from error

    def release(self) -> None:
        """Let another process work here."""
        if self.lock is not None:
            self.lock.release()

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Let another process work here once what is done within has failed."""
        try:
            yield
        except BaseException:
            self.release()
            raise

    def describe(self, recipe: str, environment: Environment) -> None:
        """Write down what is run and where. The recipe comes last: with it the folder is a run."""
        self.write_environment(environment)
        _write(self.recipe_file, recipe)

    def write_environment(self, environment: Environment) -> None:
        """WriteError when the disk is full, say."""
        _write(self.environment_file, to_json(environment.content) + "\n")

    def write_model(self, model: ModelRecord) -> None:
        _write(self.model_file, to_json(as_json(model)) + "\n")

    def refuse_own_loop(self, called: str) -> None:
        """UsageError for a run that `open_run` has logged. `called` is how the caller was given it."""
        files_of_training = self.model_file, *self.checkpoints.glob("*")
        if self.recipe_file.exists() and not any(file.exists() for file in files_of_training):
            raise UsageError(
                f"{called}: this run was logged from a loop of one's own: fgcli can report on it, but neither go on "
                "with it nor use its network; go on in that loop, in a new folder"
            )

    def read_model(self) -> ModelRecord:
        """RunError when it is missing or broken."""
        return read_record(ModelRecord, _read(self.model_file), self.model_file)

    def read_environment(self) -> Environment:
        """RunError when it is missing or broken."""
        content = _read(self.environment_file)
        if not isinstance(content, dict):
            raise RunError(f"{self.environment_file} holds no object")
        return Environment(content)

    def recorded_environment(self) -> Environment:
        """The same, empty where it cannot be read."""
        try:
            return self.read_environment()
        except RunError:
            return Environment({})

    def append_metrics(self, row: MetricsRow) -> None:
        append_row(self.metrics_file, as_json(row))

    def read_metrics(self) -> list[MetricsRow]:
        """Without a torn last one. RunError for rows that are broken."""
        return [read_record(MetricsRow, row, self.metrics_file) for row in read_rows(self.metrics_file)[0]]

    def read_diagnostics(self) -> list[DiagnosticsRow]:
        """Without a torn last one. RunError for rows that are broken."""
        rows, _ = read_rows(self.diagnostics_file)
        return [DiagnosticsRow.from_json(row, self.diagnostics_file) for row in rows]

    def rewind_metrics(self, step: int) -> tuple[list[dict[str, Any]], bool]:
        """Drop the rows after `step`: those that are left, and whether the last line was torn."""
        return rewind_rows(self.metrics_file, step)

    def write_result(self, result: Result) -> None:
        """Write result.json, which makes this a finished run. WriteError when the disk is full, say."""
        _write(self.result_file, to_json(result.as_json()) + "\n")

    def extend(self, recipe: str, environment: Environment) -> None:
        """Make a finished run one that goes on, for a longer recipe. WriteError when the disk is full, say.

        Its result is kept beside it, by the number of its steps. After a kill in between it can be resumed.
        """
        result = self.read_result()
        self.write_environment(environment)
        with writing(self.result_file):
            self.result_file.rename(self.result_file.with_stem(f"result-{result.steps:010d}"))
        _write(self.recipe_file, recipe)

    def is_finished(self) -> bool:
        """Whether there is a result. One that is damaged is none."""
        try:
            return isinstance(read_json(self.result_file), dict)
        except (FileNotFoundError, ValueError):
            return False

    def _repr_html_(self) -> str:
        """The result as a table, for notebooks."""
        finished = self.result_file.exists()
        return self.read_result()._repr_html_() if finished else f"<p>{escape(str(self.path))}: not finished</p>"

    def read_result(self) -> Result:
        """RunError when it is broken, or missing as the run has not finished."""
        if self.recipe_file.exists() and not self.result_file.exists():
            go_on = f"one that fgcli train began goes on with: {self.resume_command}"
            raise RunError(f"{self.path}: the run has not finished; {go_on}")
        return Result.from_json(_read(self.result_file), self.result_file)


def _write(file: Path, text: str) -> None:
    with writing(file):
        write_atomically(file, text)


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RunError(f"cannot read {file}: {reason}") from error


def _is_free(run: RunDirectory) -> bool:
    """Whether a folder is empty, or holds what a run leaves that was killed before its recipe was written."""
    names = {entry.name for entry in run.path.iterdir()}
    if lock.NAME not in names:
        return not names
    if run.checkpoints.is_dir() and any(run.checkpoints.iterdir()):
        return False
    written = run.environment_file, run.model_file, run.recipe_file
    ours = {lock.NAME, run.checkpoints.name, run.environment_file.name, run.model_file.name}
    return names <= ours | {entry.name for file in written for entry in half_written(file)}


def check_free(path: Path, called: str = "--out") -> None:
    """Refuse the folder of a new run that is taken, or in use. Writes nothing.

    `called` is how the caller was given it, which messages begin with.
    """
    refuse_impossible(path, called)
    lock.refuse_in_use(path)
    _check_content(path, called)


def _check_content(path: Path, called: str) -> None:
    run = RunDirectory(path)
    if os.path.exists(run.recipe_file):
        if run.result_file.exists():
            raise UsageError(f"{called} {path} holds a finished run; give a new folder, or remove that one")
        go_on = f"go on with --resume {path}" if called == "--out" else "remove that one"
        raise UsageError(f"{called} {path} holds an unfinished run; {go_on}, or give a new folder")
    if os.path.lexists(path) and not (path.is_dir() and _is_free(run)):
        raise UsageError(f"{called} {path} is not an empty folder; give a new folder or an empty one")


def create(out: Path | None, label: str, called: str = "--out") -> RunDirectory:
    """The folder of a new run, locked: `out`, or a fresh one runs/LABEL-TIME in the working directory.

    Of several processes that ask at once for the same folder one gets it, and the others the error of a taken one.
    """
    path = out
    try:
        if path is None:
            path = _fresh(Path("runs"), label)
        else:
            check_free(path, called)
            path.mkdir(parents=True, exist_ok=True)
        run = RunDirectory(path, lock.acquire(path))
        with run.released_on_error():
            _check_content(path, called)  # once more, as nobody can change it now
            run.checkpoints.mkdir(exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the run directory {error.filename or path}: {error.strerror}") from error
    return run


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
        else:
            return path


def slug(text: str) -> str:
    """A name as one harmless part of a path: letters, digits, dots, hyphens and underscores, no leading dot."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "run"


def read_run(path: str | os.PathLike[str]) -> RunDirectory:
    """The run in a folder, finished or not, to be read. `open_run` begins one of a loop of your own.

    Args:
        path: the run's folder.

    Returns:
        Its files: `read_result()` and `read_metrics()` give their content.

    Raises:
        UsageError: where there is no run, or one with links in it.
    """
    path = Path(path)
    refuse_impossible(path, "run")
    run = RunDirectory(path)
    if not os.path.exists(run.recipe_file):
        raise UsageError(f"{path} holds no run: {_what_instead(path)}")
    _refuse_links(run)
    return run


def _what_instead(path: Path) -> str:
    """A run that is in the folder, the newest; else the file that is missed."""
    name = RunDirectory(path).recipe_file.name
    found = [file for depth in ("*", "*/*", "*/*/*") for file in path.glob(f"{depth}/{name}")]
    if not found:
        return f"there is no file {path / name}; give the folder of a run"
    newest = max(found, key=lambda file: file.stat().st_mtime).parent
    return f"it is a folder of runs; give one of them, the newest is {newest}"


def check_resumable(path: Path, *, longer: bool = False) -> bool:
    """UsageError when the folder holds no run, one with links in it, or one in use. Writes nothing.

    A finished run is refused, too, unless it shall be `longer`. Returns whether it is finished.
    """
    run = RunDirectory(path)
    if not os.path.exists(run.recipe_file):
        raise UsageError(f"--resume {path} holds no run: {_what_instead(path)}")
    run.refuse_own_loop(f"--resume {path}")
    finished = run.result_file.exists()
    if finished and not longer:
        more = f"its result is in {run.result_file}; give more --epochs to go on with it, or begin another run with its"
        more += f" weights, and any method: --init-from {path}"
        raise UsageError(f"--resume {path}: this run is finished; {more}")
    _refuse_links(run)
    lock.refuse_in_use(path)
    return finished


def open_unfinished(path: Path, *, longer: bool = False) -> RunDirectory:
    """The run to resume, locked. UsageError as `check_resumable`; WriteError when the lock cannot be made."""
    finished = check_resumable(path, longer=longer)
    with writing(path / lock.NAME):
        run = RunDirectory(path, lock.acquire(path))
    with run.released_on_error():
        if run.result_file.exists() != finished:
            raise UsageError(f"--resume {path}: another process has worked there meanwhile; look again")
        for file in (run.recipe_file, run.environment_file, run.model_file, run.result_file):
            for left in half_written(file):
                left.unlink(missing_ok=True)
    return run


def _refuse_links(run: RunDirectory) -> None:
    """A run's files are its own: through a link, somebody else's would be read, or written.

    Its checkpoints may lie on another disk, as large ones do.
    """
    files = [run.recipe_file, run.environment_file, run.model_file, run.metrics_file, run.diagnostics_file]
    for entry in (*files, run.result_file, run.path / lock.NAME):
        if entry.is_symlink():
            raise UsageError(f"{entry} is a link to {os.readlink(entry)}; put the file itself in its place")
