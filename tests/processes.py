"""Real processes of fg, to be killed: forked from one that has imported torch, which saves seconds for each."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

forking = multiprocessing.get_context("forkserver")
forking.set_forkserver_preload(
    [
        "fgcli.training.start",
        "fgcli.commands.display",
        "fgcli.data.mnist1d",
        "mnist1d.data",
        "torch._dynamo",  # every optimiser imports it
        "torch._decomp.decompositions_for_jvp",  # and every dual number this
    ]
)

PATIENCE = 60.0  # seconds; a process that takes longer hangs

Prepare = Callable[[], object]
"""Done in the process before fg; importable, as this is another process."""


class FgProcess:
    """`fgcli ARGUMENTS` in the present working directory and environment."""

    def __init__(self, *arguments: str, prepare: Prepare | None = None, name: str = "fg") -> None:
        self.stdout_file, self.stderr_file = (Path(f"{name}.{stream}").absolute() for stream in ("out", "err"))
        files = str(self.stdout_file), str(self.stderr_file)
        self._process = forking.Process(
            target=_main, args=(arguments, os.getcwd(), dict(os.environ), files, prepare), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """The exit status, negative for a signal that killed it."""
        self._process.join(PATIENCE)
        assert self._process.exitcode is not None, f"still running: {self.stdout}{self.stderr}"
        return self._process.exitcode

    def wait_for(self, happened: Callable[[], object]) -> None:
        """Wait until something is so, while the process works."""
        end = time.monotonic() + PATIENCE
        while not happened():
            assert self.is_alive, f"ended with {self._process.exitcode}: {self.stdout}{self.stderr}"
            assert time.monotonic() < end, f"nothing happened: {self.stdout}{self.stderr}"
            time.sleep(0.005)

    @property
    def stdout(self) -> str:
        return self.stdout_file.read_text() if self.stdout_file.exists() else ""

    @property
    def stderr(self) -> str:
        return self.stderr_file.read_text() if self.stderr_file.exists() else ""


@contextmanager
def running(*arguments: str, prepare: Prepare | None = None, name: str = "fg") -> Iterator[FgProcess]:
    """A process that is killed at the end, should it still run."""
    process = FgProcess(*arguments, prepare=prepare, name=name)
    try:
        yield process
    finally:
        process._process.kill()
        process._process.join()


def fg_process(*arguments: str, prepare: Prepare | None = None) -> tuple[int, FgProcess]:
    """Run a process to its end; its exit status, and the process."""
    process = FgProcess(*arguments, prepare=prepare)
    return process.wait(), process


def _main(
    arguments: tuple[str, ...],
    folder: str,
    environment: dict[str, str],
    files: tuple[str, str],
    prepare: Prepare | None,
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # multiprocessing's server ignores it
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    if prepare is not None:
        prepare()
    sys.argv = ["fg", *arguments]
    from fgcli.app import main

    main()


def alive(pid: int) -> bool:
    """Running, and not a zombie that nobody has waited for."""
    try:
        return _status(pid)[0] != "Z"
    except OSError:
        return False


def parent(pid: int) -> int:
    """The process id of its parent."""
    return int(_status(pid)[1])


def _status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def until(condition: Callable[[], object]) -> None:
    """Wait until something is so."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


# What happens to a process, as `prepare`.


def at_step(at: int, numbers: Sequence[signal.Signals]) -> None:
    """These signals come to the process right after this step, as if somebody had sent them."""
    from fgcli.training.sinks import SinkReporter

    stepped = SinkReporter.stepped

    def hit(self: SinkReporter, step: int, loss: float) -> None:
        stepped(self, step, loss)
        if step == at:
            for number in numbers:
                os.kill(os.getpid(), number)

    SinkReporter.stepped = hit


def kill_at_call(of: Literal["fsync", "replace"], call: int, *, before: bool) -> None:
    """kill -9 at the so-manieth call of os.fsync or os.replace, right before or after it."""
    calls = 0
    real = getattr(os, of)

    def hit(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if before and calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        real(*arguments)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, of, hit)


def broken_output(how: str) -> None:
    """Standard output that takes nothing: a pipe that nobody reads, a full disk, or closed from the start."""
    if how == "closed":
        os.close(1)
        sys.stdout = None
    else:
        reading, writing = os.pipe()
        os.close(reading)
        os.dup2(os.open("/dev/full", os.O_WRONLY) if how == "full" else writing, 1)
        os.close(writing)
        sys.stdout = os.fdopen(1, "w", closefd=False)  # as Python opens it at the start of a process
