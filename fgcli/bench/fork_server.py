"""A process that has imported torch and fgcli, and forks itself for each trial: `python -m fgcli.bench.fork_server FD`.

A forked trial needs no import of torch, which takes 2 to 3 s. It is a process of its own all the same, and leads a group
of its own. It runs `python -m fgcli ARGUMENTS` as a new process would, with the log that it is given as both outputs.

The bench sends requests over the socket FD, which keeps the boundaries of messages: a JSON list of the threads and the
arguments, with the log's descriptor. The server sends JSON lists: [pid] in answer, and [pid, exit code] when a trial
has ended. When the bench is gone, the server ends, and with it all trials.
"""

import contextlib
import ctypes
import importlib
import json
import os
import runpy
import signal
import socket
import sys
from typing import Any

# What a training imports. None of them may start a thread, as a fork has the calling one alone.
PRELOADED = [
    "fgcli.commands.train",
    "fgcli.commands.display",
    "fgcli.training.start",
    "fgcli.training.sinks",
    "fgcli.data.mnist1d",
    "mnist1d.data",
    "sklearn.datasets",
    "sklearn.model_selection",
    "torch._dynamo",  # every optimiser imports it
    "torch._decomp.decompositions_for_jvp",  # and every dual number this
]
LONGEST = 2**20
"""Bytes of a message, at most."""


def serve(bench: socket.socket) -> list[str] | None:
    """Fork for each request until the bench is gone. Returns a trial's arguments in the trial's process, else None."""

    def reap(*_: Any) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # none is left
                return
            if not pid:  # those that are left still run
                return
            bench.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())

    signal.signal(signal.SIGCHLD, reap)
    server = os.getpid()
    while True:
        request, descriptors, _, _ = socket.recv_fds(bench, LONGEST, 1)
        if not request:
            return None
        (log,) = descriptors
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            bench.close()
            threads, *arguments = json.loads(request)
            _become_trial(server, log, threads)
            return arguments
        os.close(log)
        with contextlib.suppress(OSError):  # it has ended already
            os.setpgid(pid, pid)  # before the bench may send signals to the group
        bench.send(json.dumps([pid]).encode())


def _become_trial(server: int, log: int, threads: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the server
    if os.getppid() != server:
        os._exit(128 + signal.SIGKILL)
    os.setpgid(0, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    # As a new process would find it. NumPy's own products keep to one thread; a training has none of them.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch = importlib.import_module("torch")
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


def main() -> None:
    """Import, serve; and in a trial's process, be that process."""
    for name in PRELOADED:
        importlib.import_module(name)
    arguments = serve(socket.socket(fileno=int(sys.argv[1])))
    if arguments is None:
        os._exit(0)
    sys.argv = ["fgcli", *arguments]  # the first becomes the path of fgcli/__main__.py, as for `python -m fgcli`
    runpy.run_module("fgcli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
