"""A real SLURM of a controller and three nodes on this machine, without systemd; stopped by its process ids.

Sweeps run on n1 and n2. What is submitted to the partition `urgent` takes a CPU of n1 from a trial there. The node n3
is a partition of its own, `brief`.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from processes import alive, parent

NODES = {"n1": 3, "n2": 1, "n3": 1}
"""With their CPUs."""
CONF = """\
ClusterName=fg
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
SlurmdParameters=config_overrides
SlurmdTimeout=6
ReturnToService=2
KillWait=3
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{nodes}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE
PartitionName=urgent Nodes=n1 PriorityTier=2
PartitionName=brief Nodes=n3 MaxTime=1-0
"""
PATIENCE_S = 60.0
GRACE_S = 8.0


class SlurmCluster:
    """Needs root, munge, slurmctld and slurmd. All may enter `folder` and those above it: munge asks for that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.conf = folder / "slurm.conf"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Until all nodes are idle."""
        host, port = socket.gethostname().partition(".")[0], _free_ports(1 + len(NODES))
        for name in ("state", *NODES):
            (self._folder / name).mkdir()
        node = "NodeName={} NodeHostname={} NodeAddr=127.0.0.1 Port={} CPUs={}"
        nodes = "\n".join(node.format(one[0], host, port + at, one[1]) for at, one in enumerate(NODES.items(), start=1))
        self.conf.write_text(CONF.format(host=host, port=port, folder=self._folder, nodes=nodes))
        (self._folder / "cgroup.conf").write_text("CgroupAutomount=no\nCgroupPlugin=cgroup/v1\n")
        key = self._folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.pid", "log-file": "munged.log"}
        munge = [f"--{flag}={self._folder / name}" for flag, name in {**files, "seed-file": "seed"}.items()]
        self._run("munged", "munged", "--foreground", *munge)
        self._until((self._folder / "munge.sock").exists, "munged does not start")
        self._run("slurmctld", "slurmctld", "-D", "-c")
        for name in NODES:
            self._run(name, "slurmd", "-D", "-N", name)
        self._until(lambda: set(self.ask("sinfo", "-h", "-N", "-o", "%T").split()) == {"idle"}, "no idle nodes")

    def stop(self) -> None:
        """Everything that was started, the trials first."""
        for name in NODES:
            self.kill_node(name)
        for process in reversed(self._processes.values()):
            process.terminate()
        end = time.monotonic() + GRACE_S
        for process in self._processes.values():
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def ask(self, *command: str) -> str:
        """What a command of SLURM's says."""
        done = subprocess.run(command, env=os.environ | {"SLURM_CONF": str(self.conf)}, capture_output=True, text=True)
        return done.stdout.strip()

    def node_of(self, pid: int) -> str:
        """The node that a process of a trial runs on."""
        return next(name for name in NODES if pid in _of_node(name, self.conf))

    def kill_node(self, name: str) -> int:
        """As if its plug was pulled: its daemon, and all that runs on it. The number of processes of trials."""
        self._processes[name].kill()
        self._processes[name].wait()
        tasks = _of_node(name, self.conf)
        for pid in [*{parent(pid) for pid in tasks} - set(tasks) - {1}, *tasks]:
            if alive(pid):
                os.kill(pid, signal.SIGKILL)
        return len(tasks)

    def _run(self, name: str, *command: str) -> None:
        with (self._folder / f"{name}.out").open("wb") as output:
            environment = os.environ | {"SLURM_CONF": str(self.conf)}
            self._processes[name] = subprocess.Popen(command, env=environment, stdout=output, stderr=output)

    def _until(self, condition, otherwise: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            said = "".join(file.read_text(errors="replace")[-300:] for file in self._folder.glob("*.out"))
            assert time.monotonic() < end, f"{otherwise}: {said}"
            time.sleep(0.05)


def _of_node(name: str, conf: Path) -> list[int]:
    """The processes of tasks on a node, by what SLURM has put into their environment."""
    marks = (f"SLURMD_NODENAME={name}".encode(), f"SLURM_CONF={conf}".encode())
    found: list[int] = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            found += [int(folder.name)] * all(mark in variables for mark in marks)
    return found


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row."""
    for port in range(20000, 30000, 10):
        sockets: list[socket.socket] = []
        try:
            for number in range(port, port + count):
                sockets.append(socket.create_server(("127.0.0.1", number)))
            return port
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise AssertionError("no free ports")
