"""The side of the bench of `fgcli.bench.fork_server`: starts it, asks it for trials, hears how they end."""

import json
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from typing import BinaryIO

LONGEST = 2**10
"""Bytes of what the server says, at most."""


class ForkServer:
    """A server that runs as long as this object is there. It dies with the bench, and its trials with it.

    Args:
        environment: the variables of its process, which the trials inherit.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._socket, of_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with of_server:
            number = of_server.fileno()
            process = subprocess.Popen(
                [sys.executable, "-m", "fgcli.bench.fork_server", str(number)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[number],
                start_new_session=True,
            )
        self._ended: dict[int, int] = {}
        self._gone = False
        weakref.finalize(self, _end, self._socket, process)

    def start(self, threads: int, arguments: Sequence[str], log: BinaryIO) -> "Forked":
        """Start `python -m fgcli ARGUMENTS`. OSError where the server has ended.

        Args:
            threads: of the trial.
            arguments: its command line.
            log: takes both of its outputs.
        """
        self._socket.setblocking(True)
        socket.send_fds(self._socket, [json.dumps([threads, *arguments]).encode()], [log.fileno()])
        while True:
            message = self._heard()
            if message is None:
                raise BrokenPipeError("the fork server has ended")
            if len(message) == 1:
                return Forked(self, message[0])

    def exit_code(self, pid: int) -> int | None:
        """Of a trial that has ended: negative for a signal. All end with the server."""
        self._socket.setblocking(False)
        try:
            while not self._gone:
                self._heard()
        except BlockingIOError:
            return self._ended.get(pid)
        return self._ended.get(pid, -signal.SIGKILL)

    def wait(self, pid: int) -> int:
        """Until the trial has ended; its exit code."""
        self._socket.setblocking(True)
        while pid not in self._ended and not self._gone:
            self._heard()
        return self._ended.get(pid, -signal.SIGKILL)

    def _heard(self) -> list[int] | None:
        """The next message. None where the server has ended."""
        try:
            received = self._socket.recv(LONGEST)
        except ConnectionError:
            received = b""
        if not received:
            self._gone = True
            return None
        message = json.loads(received)
        if len(message) == 2:
            self._ended[message[0]] = message[1]
        return message


class Forked:
    """The process of a trial that the server has forked, as subprocess.Popen has it."""

    def __init__(self, server: ForkServer, pid: int) -> None:
        self.pid, self._server = pid, server

    def poll(self) -> int | None:
        return self._server.exit_code(self.pid)

    def wait(self) -> int:
        return self._server.wait(self.pid)


def _end(connection: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    connection.close()
    process.kill()  # it may still import torch
    process.wait()
