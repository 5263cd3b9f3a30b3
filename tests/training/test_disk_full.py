"""A disk that is full, a real one: at a checkpoint, at a metrics row, at the result, at a resume."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import FLAGS, Stopper, fg, rows, run, untimed, weights

from fgcli.errors import WriteError
from fgcli.files import read_json, to_json
from fgcli.runs import lock
from fgcli.runs.rows import append_row
from fgcli.runs.run_directory import RunDirectory, read_run
from fgcli.training.loop import Training

PAGE = 4096  # bytes; what a tmpfs gives at a time


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "fg-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def fill(disk: Path) -> Iterator[Callable[[], None]]:
    def fill() -> None:
        with (disk / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(PAGE)):
                pass

    def fill_up() -> None:
        with pytest.raises(OSError, match="No space left"):
            fill()

    yield fill_up
    (disk / "filler").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    path = tmp_path_factory.mktemp("whole") / "run"
    assert fg("train", *FLAGS, "--quiet", "--out", str(path)).exit_code == 0
    return ended(path)


def ended(path: Path) -> tuple[Any, ...]:
    return untimed(read_run(path).read_result()), untimed(rows(path)), weights(path)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("owner", "write", "at", "names"),
    [
        (Training, "_save", 2, "checkpoints/step-0000000006.safetensors"),
        (RunDirectory, "append_metrics", 3, "metrics.jsonl"),
        (RunDirectory, "write_result", 1, "result.json"),
    ],
)
def test_a_full_disk_costs_nothing_that_was_written(
    disk: Path, fill: Callable[[], None], whole: tuple[Any, ...], owner: Any, write: str, at: int, names: str
) -> None:
    path, real, calls = disk / names.replace("/", "-"), getattr(owner, write), 0
    before: dict[Path, bytes] = {}

    def on_full_disk(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            fit_all_but_a_part_of_a_row(path / "metrics.jsonl")
            before.update(contents(path))
            fill()
        return real(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, write, on_full_disk)
        done = fg("train", *FLAGS, "--quiet", "--out", str(path))
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fg: cannot write ")
    assert f"{path}/{names}: " in done.stderr
    assert f"go on with: fgcli train --resume {path}" in done.stderr
    assert contents(path) == before

    (disk / "filler").unlink()
    done = fg("train", "--quiet", "--resume", str(path))
    assert (done.exit_code, done.stderr) == (0, "")
    assert ended(path) == whole


@pytest.mark.parametrize(
    ("owner", "write", "name"),
    [
        (lock, "acquire", "lock"),
        (RunDirectory, "rewind_metrics", "metrics.jsonl"),
        (RunDirectory, "write_environment", "environment.json"),
    ],
)
def test_a_disk_that_is_full_at_a_resume_costs_nothing(
    disk: Path, fill: Callable[[], None], whole: tuple[Any, ...], owner: Any, write: str, name: str
) -> None:
    path, real = disk / write, getattr(owner, write)
    with pytest.raises(KeyboardInterrupt):
        run(path, Stopper(8))
    begun = read_json(path / "environment.json")
    (path / "environment.json").write_text(to_json({**begun, "torch": "2.0"}))
    (path / "lock").unlink()
    before = contents(path)

    def on_full_disk(*arguments: Any) -> Any:
        fill()
        return real(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, write, on_full_disk)
        done = fg("train", "--quiet", "--resume", str(path))
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1] == (
        f"fg: cannot write {path}/{name}: No space left on device; once it can be, go on with: "
        f"fgcli train --resume {path}"
    )
    (path / "lock").unlink()
    assert contents(path) == before

    (disk / "filler").unlink()
    assert fg("train", "--quiet", "--resume", str(path)).exit_code == 0
    assert ended(path) == whole
    shutil.rmtree(path)


def fit_all_but_a_part_of_a_row(file: Path) -> None:
    """Let the file's last page have room for 50 bytes: a full disk takes that part of the next row."""
    text = file.read_text().rstrip("\n")
    file.write_text(text + " " * (PAGE - 50 - len(text) - 1) + "\n")


def test_the_part_of_a_row_that_was_written_is_taken_back(disk: Path, fill: Callable[[], None]) -> None:
    file = disk / "rows"
    file.write_bytes(b"x" * (PAGE - 50))
    fill()
    with pytest.raises(WriteError, match=r"cannot write .*rows: only 50 of \d+ bytes \(disk full\?\)"):
        append_row(file, {"step": 1, "text": "y" * 100})
    assert file.read_bytes() == b"x" * (PAGE - 50)
