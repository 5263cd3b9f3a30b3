"""Sweeps on real clusters, against the same by the local executor. Not among the tests of `make test`."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from light_runs import untimed
from processes import alive

from cluster.slurm_cluster import SlurmCluster
from fgcli.runs import lock

PATIENCE_S = 400.0
SWEEP = """\
base:
  epochs: 16
  width: 8
  depth: 2
  batch_size: 32
  eval_every: 2
  lr: 0.01
  dataset_options: {num_samples: 100}
  device: cpu
grid:
  methods: [backprop, {label: W̃ᵀ, method: wt}]
  seed: [0, 1, 2, 3, 4, 5]
"""
# While there is a file OUT.hold, no trial in OUT comes beyond its 40th step, or the next after that when it goes on.
HELD = """\
import gc, os, sys, time

from fgcli import Entry, hookimpl

gc.disable()  # torch is imported in an eighth less time

FG_CONTRACT = 2


@hookimpl
def fg_guess_methods():
    return [Entry("held", "fgcli.methods.transpose:Transpose", "It is not used.")]


if "train" in sys.argv:
    from fgcli.training.interrupts import StopRequest
    from fgcli.training.sinks import SinkReporter

    stepped, note, asked = SinkReporter.stepped, StopRequest.note, []
    hold = next(word.partition("/trials/")[0] for word in sys.argv if "/trials/" in word) + ".hold"

    def held(self, step, loss):
        stepped(self, step, loss)
        while step >= 40 and os.path.exists(hold) and not asked:
            time.sleep(0.05)

    def noted(self, number, frame):
        asked.append(number)
        note(self, number, frame)

    SinkReporter.stepped, StopRequest.note = held, noted
"""
BENCH = ["bench", "sweep.yaml", "--plugin", "held.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of all, with a sweep of twelve trials. From now on SIGTERM stops the clusters, too."""
    signal.signal(signal.SIGTERM, lambda *_: pytest.exit("stopped by SIGTERM", returncode=143))
    folder = tmp_path_factory.mktemp("workplace")
    (folder / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    (folder / "held.py").write_text(HELD, encoding="utf-8")
    os.environ["FG_CACHE_DIR"] = str(folder / "cache")
    return folder


@pytest.fixture(autouse=True)
def _there(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)


@pytest.fixture
def hold() -> Iterator[Callable[[str], Path]]:
    """Makes the file that holds the trials of a sweep. It is gone in the end, or they would hold a CPU."""
    made: list[Path] = []

    def make(out: str) -> Path:
        made.append(Path(f"{out}.hold"))
        made[-1].touch()
        return made[-1]

    yield make
    for file in made:
        file.unlink(missing_ok=True)


Reference = Callable[[], dict[str, tuple[Any, ...]]]
"""Gives what the local executor's trials come to, by name."""


@pytest.fixture(scope="session")
def reference(workplace: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Run once, also for several processes of tests, and not before it is asked for."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    command = [sys.executable, "-m", "fgcli", *BENCH, "--out", str(folder / "local"), "--jobs", "2"]

    def run() -> dict[str, tuple[Any, ...]]:
        with (folder / "reference.lock").open("w") as alone:
            fcntl.flock(alone, fcntl.LOCK_EX)
            if not (folder / "local").exists():
                subprocess.run(command, cwd=workplace, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
        return results(folder / "local")

    return run


@pytest.fixture(scope="session")
def slurm() -> Iterator[SlurmCluster]:
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"SLURM is not tested: {' and '.join(missing) or 'root'} is missing here")
    folder = Path(tempfile.mkdtemp(prefix="fg-slurm-", dir="/tmp"))
    folder.chmod(0o755)
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        os.environ["SLURM_CONF"] = str(cluster.conf)
        yield cluster
    finally:
        os.environ.pop("SLURM_CONF", None)
        cluster.stop()


def results(out: Path) -> dict[str, tuple[Any, ...]]:
    """Of every finished trial: the result and the metrics, without times, and the recipe."""
    return {run.parent.name: _content(run.parent) for run in out.glob("trials/*/result.json")}


def _content(run: Path) -> tuple[Any, ...]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    return untimed(result), untimed(rows), (run / "recipe.yaml").read_text()


def held(out: Path) -> list[Path]:
    """The trials that wait in their 40th step: those that have written what comes before, and no result."""
    runs = [file.parent for file in out.glob("trials/*/metrics.jsonl") if _has_row(file)]
    return sorted(run for run in runs if not (run / "result.json").exists())


def at_work(out: Path) -> dict[Path, int]:
    """The trials that a process works at now, and which."""
    found = {file.parent: process_of(file.parent) for file in out.glob(f"trials/*/{lock.NAME}") if file.read_text()}
    return {run: process for run, process in found.items() if alive(process)}


def _has_row(file: Path) -> bool:
    return any(json.loads(line)["step"] in (36, 40) for line in file.read_text().splitlines())


def process_of(run: Path) -> int:
    """The process that works in a run directory, or was the last to."""
    return int(re.findall(r"process (\d+) on", (run / lock.NAME).read_text())[0])


def until(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    """Wait until something is so, while a process works."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)
