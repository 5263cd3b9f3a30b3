"""Starts trials. On Linux it asks `fgcli.bench.fork_server` for them, starts that, and hears how they end.

Elsewhere fork is not safe, and each trial is a new process.
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import BinaryIO

from fgcli.bench.process import Process, environment, spawned

FORKS = sys.platform == "linux"
"""Whether a fork server starts the trials."""
LONGEST = 2**10
"""Bytes of what the server says, at most."""
_NO_THREADS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Scikit-learn imports pyarrow where it is installed; with a thread of pyarrow's jemalloc the server would not fork."""


class Forked:
    """The process of a trial that the server has forked, with what fg uses of subprocess.Popen."""

    def __init__(self, server: "ForkServer", pid: int) -> None:
        self.pid = pid
        self._server = server
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self._server.listen(wait=False)
        return self.returncode

    def wait(self) -> int:
        """The exit code, once it has ended."""
        while self.returncode is None:
            self._server.listen(wait=True)
        return self.returncode


class Starter:
    """Starts the processes of trials, which end with this one. `variables` are added to their environment."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        self._variables = dict(variables or {})
        self._server: ForkServer | None = None

    def start(self, command: Sequence[str], threads: int, log: BinaryIO) -> Process:
        """A process, in a session or at least a group of its own: Ctrl-C reaches this one alone."""
        python, *module = command[:3]  # a worker of Ray's has another name for the same
        if FORKS and module == ["-m", "fgcli"]:
            self._server = self._server or ForkServer(environment(1) | self._variables, python)
            try:
                return self._server.start(threads, command[3:], log)
            except OSError:
                pass  # the server could not start; the trial's own log will say why
            except BaseException:
                self._server = None  # what it says next is of this trial, and would be taken for the next one's
                raise
        return spawned(command, threads, log, variables=self._variables)


class ForkServer:
    """A server that runs as long as this object is there. It dies with the process that has it, and its trials with it.

    Its process has `environment`, which the trials inherit. `python` runs it and them.
    """

    def __init__(self, environment: Mapping[str, str], python: str = sys.executable) -> None:
        self._socket, of_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with of_server:
            number = of_server.fileno()
            process = subprocess.Popen(
                [python, "-m", "fgcli.bench.fork_server", str(number)],
                env={**_NO_THREADS, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,
            )
        self._running: dict[int, Forked] = {}
        weakref.finalize(self, _end, self._socket, process)

    def start(self, threads: int, arguments: Sequence[str], log: BinaryIO) -> Forked:
        """Start `python -m fgcli ARGUMENTS`. OSError where the server cannot, or has ended."""
        self._socket.setblocking(True)
        socket.send_fds(self._socket, [json.dumps([threads, *arguments]).encode()], [log.fileno()])
        while len(message := self._hear()) == 2:  # others end meanwhile
            pass
        (pid,) = message
        if not pid:
            raise BrokenPipeError("the fork server cannot start a process")
        self._running[pid] = Forked(self, pid)
        return self._running[pid]

    def listen(self, *, wait: bool) -> None:
        """Hear what the server has said, or wait until it says something."""
        self._socket.setblocking(wait)
        with contextlib.suppress(BlockingIOError):
            while len(self._hear()) == 2 and not wait:
                pass

    def _hear(self) -> list[int]:
        """The next message; [0] from a server that has ended, which has killed its trials."""
        try:
            received = self._socket.recv(LONGEST)
        except ConnectionError:
            received = b""
        message: list[int] = json.loads(received or "[0]")
        if not received:
            for one in self._running.values():
                one.returncode = -signal.SIGKILL
            self._running.clear()
        elif len(message) == 2 and (ended := self._running.pop(message[0], None)):
            ended.returncode = message[1]
        return message


def _end(connection: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    connection.close()
    process.kill()  # it may still import torch
    process.wait()
