import errno
import fcntl
import json
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from processes import FgProcess, fg_process, running
from tiny_runs import FLAGS, Listener, Stopper, fg, go_on, rows, run, tiny_recipe, untimed

from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.runs import lock
from fgcli.training.start import begin

LONG = [*FLAGS, "--epochs", "1000000", "--eval-every", "100"]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def content(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


@pytest.mark.slow  # several processes
def test_a_run_at_work_is_refused_to_others_with_its_pid_until_it_is_killed() -> None:
    with running("train", *LONG, "--out", "run") as process:
        process.wait_for(lambda: rows(Path("run")))
        process.send(signal.SIGSTOP)  # so that nothing changes but by others
        before = content(Path("run"))
        for flags in (["--resume", "run"], [*FLAGS, "--out", "run"]):
            found, other = fg_process("train", *flags)
            assert found == 2
            assert other.stderr == (
                f"fg: run is in use by process {process.pid} on {os.uname().nodename}; wait until that has ended, or "
                "stop it\n"
            )
            assert other.stdout == ""
        assert content(Path("run")) == before
        process.send(signal.SIGKILL)
        process.wait()
    lock.acquire(Path("run")).release()


@pytest.mark.slow  # several processes
def test_twenty_processes_at_once_get_twenty_directories_and_one_gets_the_same() -> None:
    flags = [*FLAGS, "--max-steps", "1", "--quiet"]
    free = [FgProcess("train", *flags, name=f"free{number}") for number in range(20)]
    same = [FgProcess("train", *flags, "--out", "same", name=f"same{number}") for number in range(5)]
    assert [process.wait() for process in free] == [0] * 20
    results = [untimed(json.loads(file.read_text())) for file in Path("runs").glob("*/result.json")]
    assert len(results) == 20
    assert results == [results[0]] * 20
    assert sorted(process.wait() for process in same) == [0, 2, 2, 2, 2]
    assert all(process.stderr.count("\n") == 1 for process in same if process.wait() == 2)


def test_a_lock_is_free_again_after_the_run(tmp_path: Path) -> None:
    run(tmp_path / "run")
    lock.acquire(tmp_path / "run").release()


def test_within_a_process_too_the_second_is_refused(tmp_path: Path) -> None:
    training = begin(tiny_recipe(), tmp_path / "run", load_registry(), Listener())
    with pytest.raises(UsageError, match=rf"is in use by process {os.getpid()} on "):
        go_on(tmp_path / "run")
    training.run_directory.release()
    go_on(tmp_path / "run")


@pytest.mark.parametrize("text", ["", "\0" * 50, "process 1 on \x1b[2J", "process 1 on a; rm -rf ~"])
def test_a_holder_that_left_no_sound_name(tmp_path: Path, text: str) -> None:
    held = lock.acquire(tmp_path)
    (tmp_path / lock.NAME).write_text(text)
    with pytest.raises(UsageError, match=" is in use by another process; wait"):
        lock.acquire(tmp_path)
    with pytest.raises(UsageError, match=" is in use by another process; wait"):
        lock.refuse_in_use(tmp_path)
    held.release()


def test_where_there_are_no_locks_the_run_goes_on_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    listener = Listener()
    assert run(tmp_path / "run", listener)["steps"] == 12
    assert listener.warnings == [
        f"{tmp_path / 'run'} cannot be locked (No locks available); start no second process on it"
    ]


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, partial(os.symlink, "outside"), partial(os.link, "precious")])
def test_what_is_no_file_in_the_lock_s_place_is_refused_at_once(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Stopper(4))
    (tmp_path / "empty").mkdir()
    (tmp_path / "precious").write_text("another's")
    for folder, flag in (("run", "--resume"), ("empty", "--out")):
        (tmp_path / folder / lock.NAME).unlink(missing_ok=True)
        make(tmp_path / folder / lock.NAME)
        done = fg("train", *FLAGS, flag, folder)
        assert (done.exit_code, done.stdout) == (2, "")
        said = rf"fg: {folder}/lock is (no regular file|a link to outside).*; (remove|put) .*\n"
        assert re.fullmatch(said, done.stderr)
        with pytest.raises(UsageError, match=f"{folder}/lock is no regular file of its own, .*; remove it"):
            lock.acquire(tmp_path / folder)
    assert not (tmp_path / "outside").exists()
    assert (tmp_path / "precious").read_text() == "another's"
