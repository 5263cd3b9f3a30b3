"""Benches on several hosts, each a process that takes itself for another host: one at a time has a sweep's folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import until

from fgcli.errors import UsageError
from fgcli.runs import lease
from fgcli.runs.sweep_directory import SweepDirectory

BENCH = """
import platform, signal, sys, time
from pathlib import Path

from fgcli.errors import FgError
from fgcli.runs import lease
from fgcli.runs.sweep_directory import SweepDirectory

platform.node = lambda: sys.argv[1]
lease.BEAT_S, lease.STALE_S = 0.1, 5.0
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
while time.time() < float(sys.argv[2]):
    pass
try:
    with SweepDirectory(Path("d")).locked():
        print("has it", flush=True)
        while Path("busy").exists():
            time.sleep(0.01)
except FgError as error:
    print(error, flush=True)
"""


@contextmanager
def bench(host: str, at: float = 0.0) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", BENCH, host, str(at)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def silent(number: int = 1) -> None:
    """As if the lease had not been renewed for long."""
    os.utime(f"d/lease-{number}", (0, 0))


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("busy").touch()


def test_the_second_host_is_refused_until_the_first_has_left() -> None:
    with bench("n1") as first:
        assert said(first) == "has it"
        os.utime("d/lease-1", (0, 0))
        until(lambda: Path("d/lease-1").stat().st_mtime > 0)  # it is renewed
        with bench("n2") as second:
            assert said(second) == f"d is in use by process {first.pid} on n1; wait until that has ended, or stop it"
        Path("busy").unlink()
        first.wait()
        with bench("n2") as second:
            assert said(second) == "has it"
    assert [file.name for file in Path("d").iterdir()] == ["lease-2"]


def test_a_holder_that_gives_no_sign_is_replaced_by_one_of_many_and_stops_when_it_is_back() -> None:
    with bench("n1") as first:
        assert said(first) == "has it"
        first.send_signal(signal.SIGSTOP)
        silent()
        at = time.time() + 2.0  # all at once
        others = [bench(f"n{number}", at) for number in range(2, 7)]
        processes = [one.__enter__() for one in others]
        try:
            lines = [said(process) for process in processes]
            (winner,) = [process for process, line in zip(processes, lines, strict=True) if line == "has it"]
            assert sum(line.startswith("d is in use by ") for line in lines) == 4
            first.send_signal(signal.SIGCONT)
            assert said(first) == (
                f"stopped, as process {winner.pid} on n{2 + processes.index(winner)} has taken d over: this one had "
                "given no sign for too long"
            )
            assert winner.poll() is None
        finally:
            for one in others:
                one.__exit__(None, None, None)


def test_on_the_same_host_a_process_is_looked_at_and_not_its_last_sign() -> None:
    with bench(os.uname().nodename) as first:
        assert said(first) == "has it"
        first.send_signal(signal.SIGSTOP)
        silent()
        with pytest.raises(UsageError, match=f"in use by process {first.pid} on "), SweepDirectory(Path("d")).locked():
            pass
        first.kill()
        first.wait()
        with SweepDirectory(Path("d")).locked():
            pass


@pytest.mark.parametrize("content", ["", "[1]", '{"pid": "\\u001b[2J", "host": "a; b"}', "\0" * 9])
def test_what_is_not_understood_is_held_until_it_is_stale(content: str) -> None:
    Path("d").mkdir()
    file = Path("d/lease-3")
    file.write_text(content)
    with pytest.raises(UsageError, match=r"^d is in use by another process; wait"):
        lease.acquire(Path("d"))
    silent(3)
    lease.acquire(Path("d")).release()
    assert [one.name for one in Path("d").iterdir()] == ["lease-4"]


def test_a_folder_in_the_lease_s_place_is_refused() -> None:
    Path("d/lease-1").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"^d/lease-1 is not a regular file, and no lease of fg's; remove it$"):
        lease.acquire(Path("d"))
