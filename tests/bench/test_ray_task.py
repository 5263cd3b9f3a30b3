"""What `--executor ray` refuses, and what its workers do with trials, without Ray. With it: tests/cluster."""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from fgcli.bench import ray_cluster, ray_task, task
from fgcli.bench.executor import Trial
from fgcli.bench.options import RayOptions
from fgcli.bench.ray_cluster import RayExecutor
from fgcli.errors import UsageError
from fgcli.extend.explain import checked_options


def test_a_worker_starts_its_trials_from_one_server_until_ray_names_other_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # it changes to the folder of the bench
    made: list[Any] = []

    class Starter:
        def __init__(self, variables: Mapping[str, str]) -> None:
            assert variables == {"FG_CACHE_DIR": "there"}
            made.append(self)

        def start(self, command: Sequence[str], threads: int, log: BinaryIO) -> "subprocess.Popen[bytes]":
            return subprocess.Popen(command, start_new_session=True)

    monkeypatch.setattr(ray_task, "Starter", Starter)
    counts: list[int] = []
    for gpus in ("0", "0", "1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
        trial = Trial("t", (sys.executable, "-ISc", "raise SystemExit(3)"), tmp_path / "t", tmp_path / "log", 1)
        assert ray_task.run(task.written(trial), str(tmp_path), {"FG_CACHE_DIR": "there"}) == 3
        counts.append(len(made))
    assert counts == [1, 1, 2]


@pytest.mark.parametrize(
    ("options", "threads", "fix"),
    [
        ({"jobs": 3}, 2, "2 threads a trial needs 6 cores, .* give --jobs 2, or fewer --threads, or fewer proc"),
        ({"jobs": 3, "cpus": 2}, 1, "2 CPUs a trial needs 6 cores, .* give --jobs 2, or a lower option cpus$"),
        ({"jobs": 9, "cpus": 0.5}, 2, "0.5 CPUs a trial needs 4.5 cores, .* give --jobs 8, or a lower option cp"),
        ({}, 3, "needs 3 CPUs, and the largest node has 2; give fewer --threads, or fewer processes where the rec"),
        ({"cpus": 3}, 1, "needs 3 CPUs, and the largest node has 2; give a lower option cpus$"),
        ({"gpus": 2}, 1, "needs 2 GPUs, and the largest node has 1; give a lower option gpus$"),
    ],
)
def test_refused_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, float], threads: int, fix: str
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 2, "GPU": gpus}} for gpus in (0, 1)]
    monkeypatch.setattr(ray_cluster, "require", lambda *_, **__: None)
    monkeypatch.setattr(RayExecutor, "_connected", lambda _: SimpleNamespace(nodes=lambda: nodes))
    with pytest.raises(UsageError, match=fix):
        RayExecutor(RayOptions.model_validate(options)).place(threads)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 1.5}, "gpus is 1.5: it must be 0, from 0.0001 to 1, or a whole number"),
        ({"gpus": 1e-5}, "gpus is 1e-05: it must be 0, from 0.0001 to 1, or a whole number"),
        ({"cpus": 1e-9}, "cpus is 1e-09; it must be at least 0.0001"),
        ({"retries": 2**31}, "retries is 2147483648; it must be below 2147483648"),
    ],
)
def test_what_ray_would_refuse_of_the_first_trial_is_refused_before(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=f"^--executor-option {re.escape(message)}$"):
        checked_options("executor ray", RayOptions, options, "--executor-option")
    checked_options("executor ray", RayOptions, {"gpus": 2, "cpus": 0.0001, "retries": 2**31 - 1}, "here")
