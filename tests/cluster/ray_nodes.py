"""A real Ray of a head and two nodes on this machine, in a network of their own, as Ray binds to all addresses."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CPUS = 2
PATIENCE_S = 200.0
GRACE_S = 8.0
ADDRESS = "127.0.0.1:6379"
_SHARED = [
    *("--block", "--num-gpus=0", "--object-store-memory=80000000"),
    *("--disable-usage-stats", "--include-log-monitor=false"),
]


class RayNodes:
    """Needs root (for the network), unshare, nsenter, ip and Ray."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        script = "ip link set lo up && echo up && exec sleep infinity"
        self._network = subprocess.Popen(["unshare", "-n", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
        assert self._network.stdout is not None
        assert self._network.stdout.readline() == "up\n"  # before, commands would be in the network of all
        self._network.stdout.close()
        self._name = os.readlink(f"/proc/{self._network.pid}/ns/net")
        self._nodes: list[subprocess.Popen[bytes]] = []

    def command(self, *words: str) -> list[str]:
        """These words, within the network of the cluster."""
        return ["nsenter", "-t", str(self._network.pid), "-n", *words]

    def start(self) -> None:
        """Until both nodes are there. The head runs no trials, so that both nodes may be killed."""
        head = ["--head", "--node-ip-address=127.0.0.1", f"--port={ADDRESS.rpartition(':')[2]}", "--num-cpus=0"]
        self._start(*head, "--include-dashboard=false", f"--temp-dir={self._folder}")
        self._until(lambda: "Ray runtime started" in self._said(), "the head does not start")
        for count in (2, 3):  # one after the other: of two that start at once, one may hang
            self._start(f"--address={ADDRESS}", f"--num-cpus={CPUS}")
            self._until(lambda count=count: self._said().count("Ray runtime started") == count, "a node does not start")

    def kill_node(self, number: int) -> None:
        """The first node (1) or the second: all of its processes."""
        os.killpg(self._nodes[number].pid, signal.SIGKILL)
        self._nodes[number].wait()

    def stop(self) -> None:
        """All that runs in the network: asked to end, and killed after some seconds, however it came there."""
        for node in reversed(self._nodes):
            node.terminate()
        end = time.monotonic() + GRACE_S
        while any(node.poll() is None for node in self._nodes) and time.monotonic() < end:
            time.sleep(0.1)
        while found := self._processes():
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for process in (*self._nodes, self._network):
                process.poll()  # so that none of them stays as a zombie
            time.sleep(0.1)
        for process in (*self._nodes, self._network):
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _processes(self) -> list[int]:
        """Of the network."""
        found: list[int] = []
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it has ended, or is none
                if folder.name.isdigit() and os.readlink(folder / "ns" / "net") == self._name:
                    found.append(int(folder.name))
        return found

    def _start(self, *flags: str) -> None:
        ray = Path(sys.executable).with_name("ray")
        output = self._folder / f"node{len(self._nodes)}.out"
        with output.open("wb") as file:
            command = self.command(str(ray), "start", *flags, *_SHARED)
            # On a machine with other work: patience, and workers that do not step back behind it.
            busy = {"RAY_raylet_start_wait_time_s": str(int(PATIENCE_S)), "RAY_worker_niceness": "0"}
            self._nodes.append(
                subprocess.Popen(command, env=os.environ | busy, stdout=file, stderr=file, start_new_session=True)
            )

    def _said(self) -> str:
        return "".join(file.read_text(errors="replace") for file in sorted(self._folder.glob("node*.out")))

    def _until(self, condition, otherwise: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"{otherwise}: {self._said()[-1000:]}"
            time.sleep(0.1)


def missing() -> Sequence[str]:
    """What is not here."""
    found = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    found += [] if Path(sys.executable).with_name("ray").exists() else ["ray"]
    return found if os.getuid() == 0 else [*found, "root"]
