"""`--executor ray` on a real Ray of two nodes."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import alive, parent

from cluster.conftest import BENCH, held, process_of, results, until
from cluster.ray_nodes import ADDRESS, RayNodes, missing

RAY = [*BENCH, "--executor", "ray"]


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


def bench(ray: RayNodes, *flags: str) -> "subprocess.Popen[str]":
    given = flags or ("--out", "r", "--executor-option", f"address={ADDRESS}")
    command = ray.command(sys.executable, "-m", "fgcli", *RAY, *given)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    said = process.communicate()[0]
    return process.returncode, said


def test_a_sweep_survives_ctrl_c_a_lost_worker_and_a_lost_node_and_ends_as_the_local_one(
    ray: RayNodes, reference: dict[str, tuple[Any, ...]]
) -> None:
    for option, message in (
        ("cpus=4", "a trial needs 4 CPUs, and the largest node has 3"),
        ("gpus=1", "a trial needs 1 GPUs, and the largest node has 0"),
        ("jobs=7", "--jobs 7 with 1 CPUs a trial needs 7 cores, and the Ray cluster has 6"),
        ("address=127.0.0.1:6666", "--executor ray: there is no cluster at 127.0.0.1:6666; start one with"),
    ):
        address = [] if "address" in option else ["--executor-option", f"address={ADDRESS}"]
        code, said = ended(bench(ray, "--out", "refused", "--executor-option", option, *address))
        assert (code, message in said, Path("refused").exists()) == (2, True, False), said

    out = Path("r")
    Path("hold").touch()
    stopped = bench(ray)
    until(lambda: len(held(out)) == 6)
    processes = [process_of(run) for run in held(out)]
    begun = {run: (run / "environment.json").read_bytes() for run in held(out)}
    stopped.send_signal(signal.SIGINT)
    Path("hold").unlink()
    code, said = ended(stopped)
    assert code == 130, said
    assert "fg: stopped; what was finished stays, and the rest is run by: " in said
    assert not any(map(alive, processes))
    assert not any((run / "result.json").exists() for run in begun)

    Path("hold").touch()
    again = bench(ray)
    until(lambda: len(held(out)) == 6 and not set(held(out)) & set(begun))
    first, *others = held(out)
    os.kill(parent(process_of(first)), signal.SIGKILL)
    processes = [process_of(run) for run in others]
    ray.kill_node(1)
    until(lambda: not all(map(alive, processes)))
    Path("hold").unlink()
    code, said = ended(again)
    assert code == 0, said
    assert "12 of 12 trials are finished" in said
    assert results(out) == reference
    assert not (out / "failed.jsonl").exists()
    for run, environment in begun.items():
        assert (run / "environment.json").read_bytes() == environment, "resumed, not begun again"
    shutil.rmtree(out)
