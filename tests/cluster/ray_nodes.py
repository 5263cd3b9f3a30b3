"""A real Ray of two nodes on this machine, in a network of their own, as Ray binds to all addresses."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

CPUS = (2, 1)
"""Of the head, and of the node that is killed."""
PATIENCE_S = 400.0
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
        """Until both nodes are there."""
        head = ["--head", "--node-ip-address=127.0.0.1", f"--port={ADDRESS.rpartition(':')[2]}"]
        head += ["--include-dashboard=false", f"--temp-dir={self._folder}"]
        end = time.monotonic() + PATIENCE_S
        for cpus, flags in zip(CPUS, (head, [f"--address={ADDRESS}"]), strict=True):
            while not self._started(f"--num-cpus={cpus}", *flags):
                assert time.monotonic() < end, f"a node does not start: {self._said()[-1000:]}"

    def on_second_node(self, worker: int) -> bool:
        """Whether a process of Ray's belongs to the node that is not the head."""
        return os.getsid(worker) == self._nodes[1].pid

    def kill_second_node(self) -> None:
        """All of its processes."""
        os.killpg(self._nodes[1].pid, signal.SIGKILL)
        self._nodes[1].wait()

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

    def _started(self, *flags: str) -> bool:
        """Whether a new node has started. On a busy machine one may not: it waits 15 s for its agents, then it dies."""
        ray = Path(sys.executable).with_name("ray")
        output = self._folder / f"node{len(self._nodes)}.out"
        with output.open("wb") as file:
            command = self.command(str(ray), "start", *flags, *_SHARED)
            # `ray start` waits a minute for a node; workers do not step back behind other work; none without a task.
            busy = {"RAY_raylet_start_wait_time_s": "60", "RAY_worker_niceness": "0"}
            busy |= {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
            node = subprocess.Popen(command, env=os.environ | busy, stdout=file, stderr=file, start_new_session=True)
        self._nodes.append(node)
        while node.poll() is None:
            if "Ray runtime started" in output.read_text(errors="replace"):
                return True
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)  # what it has left behind
        self._nodes.remove(node)
        return False

    def _said(self) -> str:
        return "".join(file.read_text(errors="replace") for file in sorted(self._folder.glob("node*.out")))


def missing() -> Sequence[str]:
    """What is not here."""
    found = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    found += [] if Path(sys.executable).with_name("ray").exists() else ["ray"]
    return found if os.getuid() == 0 else [*found, "root"]
