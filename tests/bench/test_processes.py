"""`fgcli bench` with real trials: killed and started again, one at once or two, the results are the same to the bit."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import no_network
import pytest
import served
from processes import alive, parent, until
from tiny_runs import fg, untimed

from fgcli.bench import forked, local
from fgcli.runs import lock

DOOMED = """
import os, signal, sys

from fgcli import Entry, hookimpl

FG_CONTRACT = 2


@hookimpl
def fg_guess_methods():
    return [Entry("doomed", "fgcli.methods.transpose:Transpose", "Its trials kill themselves.")]


if any(argument.endswith("/doomed-seed0.yaml") for argument in sys.argv):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def content(run: Path) -> tuple[Any, ...]:
    """The result and the metrics, without times, and the recipe."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    result = json.loads((run / "result.json").read_text())
    return untimed(result), untimed(rows), (run / "recipe.yaml").read_text()


@pytest.mark.slow
def test_killed_and_started_again_ends_as_if_nothing_had_been(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is the network used by any of its processes, or anything stopped by a trial that is killed each time."""
    monkeypatch.setattr(local, "cores", lambda: 2)
    used = workplace / "used"
    monkeypatch.setenv("PYTHONPATH", no_network.refuse_in_children(workplace, used))
    Path("doomed.py").write_text(DOOMED)
    doomed = Path("sweep.yaml").read_text().replace("backprop,", "backprop, doomed,")
    Path("with-doomed.yaml").write_text(doomed)
    flags = ["--out", "whole", "--seeds", "0", "--jobs", "2", "--plugin", "doomed.py"]
    result = fg("bench", "with-doomed.yaml", *flags)
    assert result.exit_code == 1, result.stderr
    assert "trial doomed-seed0 failed (exit code -9)" in result.stderr
    assert "1 of the trials failed" in result.stderr
    assert Path("whole/failed.jsonl").read_text().count("exit_code") == 2, "it is tried twice"
    assert Path("whole/trials/backprop-seed0/result.json").exists()
    assert "whole: 2 trials at once, 1 thread each, on 2 cores" in result.stdout

    # One trial at once, and the bench killed in the middle of it.
    flags = ["bench", "sweep.yaml", "--out", "killed", "--seeds", "0", "--jobs", "1", "--only", "W̃ᵀ"]
    bench = subprocess.Popen([sys.executable, "-m", "fgcli", *flags], stdout=subprocess.DEVNULL)
    run = Path("killed/trials/wt-seed0")
    metrics = run / "metrics.jsonl"
    until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 2)
    trial = int(re.findall(r"process (\d+) on", (run / lock.NAME).read_text())[0])
    server = parent(trial) if forked.FORKS else trial
    os.kill(bench.pid, signal.SIGKILL)
    bench.wait()
    if sys.platform == "linux":
        until(lambda: not alive(trial) and not alive(server))
    assert not (run / "result.json").exists()
    begun = (run / "environment.json").read_bytes()

    result = fg(*flags[:-4], *flags[-2:], *served.FLAGS)
    assert result.exit_code == 0, result.stderr
    assert (run / "environment.json").read_bytes() == begun  # resumed, not begun again
    assert "begins again" not in Path("killed/logs/wt-seed0.log").read_text()
    assert content(run) == content(Path("whole/trials/wt-seed0"))
    assert not used.exists()
