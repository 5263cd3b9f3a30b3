"""`--executor ray` on a real Ray of two nodes."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import alive, parent

from cluster.conftest import BENCH, PATIENCE_S, Reference, at_work, held, results, until
from cluster.ray_nodes import ADDRESS, RayNodes, missing

RAY = [*BENCH, "--executor", "ray", "--out", "r", "--executor-option", f"address={ADDRESS}"]
REFUSED = [
    ("address=127.0.0.1:6666", "--executor ray: there is no cluster at 127.0.0.1:6666; start one with"),
    ("cpus=3", "a trial needs 3 CPUs, and the largest node has 2"),
    ("gpus=1", "a trial needs 1 GPU, and the largest node has 0"),
    ("jobs=4", "--jobs 4 with 1 thread a trial needs 4 cores, and the Ray cluster has 3; give --jobs 3"),
]
# All in one process, which asks the cluster once.
REFUSE = """
import sys
from light_runs import fg
for options in sys.argv[1:]:
    flags = [part for option in options.split(",") for part in ("--executor-option", option)]
    done = fg("bench", "sweep.yaml", "--out", "refused", "--executor", "ray", *flags)
    print(done.exit_code, done.stderr.strip(), file=sys.stderr)
"""


@pytest.fixture
def ray() -> Iterator[RayNodes]:
    if lacking := missing():
        pytest.skip(f"Ray is not tested: {' and '.join(lacking)} is missing here")
    cluster = RayNodes(Path(tempfile.mkdtemp(prefix="fg-ray-", dir="/tmp")))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def start(ray: RayNodes, *words: str) -> "subprocess.Popen[str]":
    command = ray.command(sys.executable, *words)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said = process.communicate(timeout=PATIENCE_S)[0]
    return process.returncode, said


def test_a_sweep_survives_ctrl_c_a_killed_bench_worker_and_node_and_ends_as_the_local_one(
    ray: RayNodes, hold: Callable[[str], Path], reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_back = hold("r")
    out = Path("r")
    stopped = start(ray, "-m", "fgcli", *RAY, "--jobs", "2")

    tests = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])]))
    others = (f"{option},address={ADDRESS}" for option, _ in REFUSED[1:])
    said = ended(start(ray, "-c", REFUSE, REFUSED[0][0], *others))[1]
    for _, message in REFUSED:
        assert re.search(f"^2 fg: .*{re.escape(message)}", said, re.MULTILINE), said
    assert not Path("refused").exists()

    until(lambda: len(held(out)) == 2, stopped)
    begun = {run: (run / "environment.json").read_bytes() for run in held(out)}
    processes = at_work(out).values()
    assert len(processes) == 2
    stopped.send_signal(signal.SIGINT)
    code, said = ended(stopped)
    assert code == 130, said
    assert "fg: stopped; what was finished stays, and the rest is run by: " in said
    assert not any(map(alive, processes))

    killed = start(ray, "-m", "fgcli", *RAY, "--only", next(iter(begun)).name)
    until(lambda: at_work(out), killed)
    processes = at_work(out).values()
    killed.kill()
    ended(killed)
    until(lambda: not any(map(alive, processes)))
    assert not any((run / "result.json").exists() for run in begun)

    again = start(ray, "-m", "fgcli", *RAY)
    until(lambda: len(at_work(out)) == 3, again)
    processes = at_work(out).values()
    servers = {parent(process) for process in processes}
    assert all("fork_server" in Path(f"/proc/{server}/cmdline").read_text() for server in servers)
    workers = {parent(server) for server in servers}
    os.kill(next(worker for worker in workers if not ray.on_second_node(worker)), signal.SIGKILL)
    ray.kill_second_node()
    until(lambda: sum(map(alive, processes)) == 1, again)
    held_back.unlink()
    code, said = ended(again)
    assert code == 0, said
    assert "12 of 12 trials are finished" in said
    assert results(out) == reference()
    assert not (out / "failed.jsonl").exists()
    for run, environment in begun.items():
        assert (run / "environment.json").read_bytes() == environment, "resumed, not begun again"
