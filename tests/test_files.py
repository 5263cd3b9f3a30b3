import math
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_runs import tiny_recipe

import fgcli
from fgcli import UsageError, files
from fgcli.data.arrays import read_arrays
from fgcli.extend.registry import load_registry
from fgcli.files import from_json, read_json, to_json, write_atomically
from fgcli.training.reporter import Reporter
from fgcli.training.start import begin


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_not_finite_is_not_written(number):
    with pytest.raises(ValueError, match="JSON"):
        to_json({"loss": number})


@pytest.mark.parametrize("text", ["NaN", '{"loss": Infinity}', "[-Infinity]"])
def test_not_finite_is_not_read(text):
    with pytest.raises(ValueError, match="is not JSON"):
        from_json(text)


def test_deep_nesting_is_an_error_not_a_crash():
    with pytest.raises(ValueError, match="nested too deeply"):
        from_json("[" * 100_000)


@pytest.mark.parametrize("number", [0.1, 1e-300, 2**53 + 1, -0.0])
def test_numbers_come_back_to_the_bit(number):
    assert repr(from_json(to_json(number))) == repr(number)


def test_huge_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "JSON_LIMIT", 10)
    (tmp_path / "a.json").write_text('"' + "x" * 20 + '"')
    with pytest.raises(ValueError, match="larger than 10 bytes"):
        read_json(tmp_path / "a.json")


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    write_atomically(path, "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.setenv("FG_CACHE_DIR", "")
    assert files.cache_folder().name == "fg"


@pytest.mark.parametrize("use", [fgcli.read_run, fgcli.load_model, fgcli.read_report])
@pytest.mark.parametrize(("path", "why"), [("x" * 300, "File name too long"), ("a\0b", "embedded null byte")])
def test_what_can_be_no_path_is_a_usage_error(use: Callable[[str], object], path: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"{why}; give another path"):
        use(path)


def test_a_pipe_is_no_file_of_arrays_or_weights(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(UsageError, match=r"pipe\.npz cannot be read as arrays: not a regular file"):
        read_arrays(tmp_path / "pipe.npz")
    with pytest.raises(UsageError, match=r"--init-from .*pipe\.npz is no run .*\(not a regular file\)"):
        begin(tiny_recipe(init_from=str(tmp_path / "pipe.npz")), tmp_path / "run", load_registry(), Reporter())


def test_a_file_that_may_not_be_read_is_said_to_be_one() -> None:
    """Of weights, safetensors would say that there is no such file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        file.touch(mode=0)
        Path(folder).chmod(0o755)
        user = os.geteuid()
        os.seteuid(user or 65534)  # root may read all
        try:
            with pytest.raises(PermissionError):
                files.require_regular(file)
        finally:
            os.seteuid(user)
