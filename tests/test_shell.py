"""Commands that fg prints work as they are printed."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_runs import FLAGS

from fgcli.commands.bench_run import Request
from fgcli.shell import command_line, quoted

PLUGIN = """
import os
import signal

import torch

from fgcli import Entry, hookimpl

FG_CONTRACT = 2


@hookimpl
def fg_optimizers():
    return [Entry("mine", "my_optimizer:Mine", "SGD that is stopped where STOP is set.")]


class Mine(torch.optim.SGD):
    def __init__(self, options, parameters, lr):
        super().__init__(parameters, lr=lr)

    def step(self, closure=None):
        super().step(closure)
        if "STOP" in os.environ:
            os.kill(os.getpid(), signal.SIGTERM)
"""
MODEL = """
from torch import nn


def make(input_shape, classes, generator):
    return nn.Sequential(nn.Linear(input_shape[0], 8, bias=False), nn.ReLU(), nn.Linear(8, classes, bias=False))
"""
FG = f'fgcli() {{ {shlex.quote(sys.executable)} -m fgcli "$@"; }}'


def shell(command: str, **variables: str) -> subprocess.CompletedProcess[bytes]:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(["bash", "-c", f"{FG}; {command}"], env=own | variables, capture_output=True, check=False)


@pytest.mark.slow
def test_the_printed_command_resumes_a_run_with_a_plugin_file_and_a_model_of_ones_own(tmp_path, monkeypatch):
    """The plugin's folder has a space in its name; the run's name is no text."""
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    for file, text in (("plug ins/my_optimizer.py", PLUGIN), ("lib/my_nets.py", MODEL)):
        Path(file).parent.mkdir()
        Path(file).write_text(text)
    package = Path(__file__).parents[1]
    where = f"PYTHONPATH=lib:{shlex.quote(str(package))}"
    flags = [flag for flag in FLAGS if flag not in ("--width", "8", "--depth", "2")]
    own = ["--plugin", "plug ins/my_optimizer.py", "--optimizer", "mine", "--model", "my_nets:make"]
    begin = " ".join(map(quoted, ("fgcli", "train", *flags, *own, "--quiet", "--out", name)))
    stopped = shell(f"{where} {begin}", STOP="1")
    assert stopped.returncode == 143, stopped.stderr
    printed = stopped.stderr.decode().strip().partition("go on with: ")[2]
    resumed = shell(printed)
    assert resumed.returncode == 0, (printed, resumed.stderr)
    assert Path(name, "result.json").exists()


def test_the_command_of_a_bench_has_its_flags(monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    request = Request("a b.yaml", jobs=2, seeds="0,1", only=("wt*",), plugins=(Path("/p/mine.py"),), timing=True)
    said = request.command(Path("runs/a b"), own_code=True)
    assert said == (
        "fgcli bench 'a b.yaml' --out 'runs/a b' --jobs 2 --seeds 0,1 --timing --only 'wt*' --plugin /p/mine.py"
    )


def test_a_printed_command_is_never_the_shell_s_own_fg(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/fg", "train"])
    assert command_line("train", "--resume", "my run") == "fgcli train --resume 'my run'"
