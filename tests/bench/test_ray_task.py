"""What a worker of Ray's does with the trials that it gets, without Ray. With it: tests/cluster."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from fgcli.bench import ray_task, task
from fgcli.bench.executor import Trial


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
