"""A process that has imported torch and fgcli, and forks itself for each trial: `python -m fgcli.bench.fork_server FD`.

A forked trial needs no import of torch, which takes seconds. It is a process of its own all the same, and leads a group
of its own. It runs `python -m fgcli ARGUMENTS` as a new process would, with the log that it is given as both outputs.

The bench sends requests over the socket FD, which keeps the boundaries of messages: a JSON list of the threads and the
arguments, with the log's descriptor. The server answers each with [pid], 0 where it cannot fork, and says [pid, exit
code] when a trial has ended. When the bench is gone, the server ends, and with it all trials.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import sys
from collections.abc import Iterator

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
    "threadpoolctl",
    "torch._dynamo",  # every optimiser imports it
    "torch._decomp.decompositions_for_jvp",  # and every dual number this
]
LONGEST = 2**20
"""Bytes of a message, at most."""


def serve(bench: socket.socket) -> list[str] | None:
    """Fork for each request until the bench is gone. Returns a trial's arguments in the trial's process, else None."""
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # Python writes to `waking`
    server = os.getpid()
    while True:
        ready, _, _ = select.select([bench, woken], [], [])
        if woken in ready:
            woken.recv(2**12)
            for ended in _ended():
                bench.send(json.dumps(ended).encode())
        if bench in ready:
            request, descriptors, _, _ = socket.recv_fds(bench, LONGEST, 1)
            if not request:
                return None
            (log,) = descriptors
            pid = _fork()
            if pid is None:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for one in (bench, woken, waking):
                    one.close()
                threads, *arguments = json.loads(request)
                _become_trial(server, log, threads)
                return arguments
            os.close(log)
            bench.send(json.dumps([pid]).encode())


def _fork() -> int | None:
    """The process id of the new process, 0 where there can be none. None in the new process."""
    try:
        pid = os.fork()
    except OSError:
        return 0
    if not pid:
        return None
    with contextlib.suppress(OSError):  # it has ended already
        os.setpgid(pid, pid)  # before the bench may send signals to the group
    return pid


def _ended() -> Iterator[tuple[int, int]]:
    """Process id and exit code of the trials that have ended."""
    with contextlib.suppress(ChildProcessError):  # none is left
        while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            yield found[0], os.waitstatus_to_exitcode(found[1])


def _become_trial(server: int, log: int, threads: int) -> None:
    """What a new process would find: a group, outputs, threads and unseeded randomness of its own."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the server
    if os.getppid() != server:
        os._exit(128 + signal.SIGKILL)
    os.setpgid(0, 0)
    for output in (1, 2):
        os.dup2(log, output)
    os.close(log)
    random.seed()
    importlib.import_module("numpy").random.seed()
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if threads > 1:
        importlib.import_module("torch").set_num_threads(threads)
        importlib.import_module("threadpoolctl").threadpool_limits(threads)


def main() -> None:
    """Import, serve; and in a trial's process, be that process."""
    gc.disable()  # an eighth of the time of the imports
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # or the trials' collectors would copy every page of it
    gc.enable()
    alone = len(os.listdir("/proc/self/task")) == 1  # else a fork may hang: the bench starts new processes then
    arguments = serve(socket.socket(fileno=int(sys.argv[1]))) if alone else None
    if arguments is None:
        os._exit(0)
    sys.argv = ["fgcli", *arguments]  # the first becomes the path of fgcli/__main__.py, as for `python -m fgcli`
    runpy.run_module("fgcli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
