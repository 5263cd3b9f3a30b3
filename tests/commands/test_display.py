import io
import os
import pty
import select
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from processes import FgProcess
from tiny_runs import FLAGS

from fgcli.commands.display import Display, WarningsOnly, show_result
from fgcli.commands.output import scores
from fgcli.gradient.estimator import Coverage
from fgcli.runs.results import Metrics, Result
from fgcli.training.reporter import Plan

RECIPE = {
    "method": "wt", "dataset": "mnist1d", "width": 8, "depth": None, "k": None, "seed": 3, "device": "cpu",
    "threads": 1,
}  # fmt: skip
RESULT = Result(
    recipe=RECIPE,
    steps=32,
    metrics=Metrics(train_accuracy=0.51239, test_accuracy=0.4, train_loss=1.25, test_loss=1.5),
    wall_s=61.25,
    step_ms_median=2.5,
    step_ms_quartiles=(2.25, 2.75),
    peak_memory_bytes=3 * 2**20,
    perturbed=("norm.weight", "norm.bias"),
    run_dir="runs/[bold]" + "x" * 100,
)
COVERAGE = Coverage(("hidden1",), ("norm.weight",), ("scale",))


def test_table_has_the_numbers(capsys):
    show_result(RESULT)
    shown = capsys.readouterr().out
    for text in ("wt on mnist1d, width 8, seed 3", "0.5124", "0.4000", "1.2500", "61.2 s", "3 MiB"):
        assert text in shown
    assert "2.50 ms median, quartiles 2.25 to 2.75" in shown
    assert "trained by weight perturbation  norm.weight, norm.bias" in shown
    assert "frozen" not in shown
    assert shown.splitlines()[-1] == f"run directory  {RESULT.run_dir}", "whole on one line, nothing read as markup"


def test_a_loss_that_grows_without_bound_keeps_the_table_narrow(capsys):
    metrics = replace(RESULT.metrics, train_loss=2.6489818944987227e34, train_accuracy=None)
    show_result(replace(RESULT, metrics=metrics))
    assert "│ loss │ 2.65e+34 │ 1.5000 │" in capsys.readouterr().out
    assert scores(metrics) == "loss 2.65e+34 train 1.500 test"


def test_quartiles_of_few_steps_are_not_told(capsys):
    show_result(replace(RESULT, steps=12))
    shown = capsys.readouterr().out
    assert "2.50 ms median" in shown
    assert "quartiles" not in shown


def test_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    show_result(RESULT)
    shown = capsys.readouterr().out
    assert RESULT.run_dir in shown
    words = " ".join(shown.split())
    for text in ("train accuracy: 0.5124", "test loss: 1.5000", "wall time: 61.2 s", "device: cpu, threads: 1"):
        assert text in words, "whole, not cut"


@pytest.mark.parametrize("to_stderr", [True, False])
def test_uncovered_parameters_are_told_at_the_start(capsys, to_stderr):
    with Display(to_stderr=to_stderr) as display:
        display.started(Plan("<script>[red]", Path("run"), 6, 12, 3, COVERAGE))
    captured = capsys.readouterr()
    shown, other = (captured.err, captured.out) if to_stderr else (captured.out, captured.err)
    assert shown.splitlines() == [
        "<script>[red]: 12 steps, 3 an epoch, in run",
        "goes on after step 6",
        "trained by weight perturbation: norm.weight",
        "frozen, not trained: scale",
    ]
    assert other == ""


@pytest.mark.parametrize("make", [WarningsOnly, lambda: Display(to_stderr=False)])
def test_warnings_go_to_stderr(capsys, make):
    with make() as reporter:
        reporter.warned("a checkpoint is damaged")
    assert capsys.readouterr() == ("", "fg: warning: a checkpoint is damaged\n")


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stderr", [Tty, io.StringIO])
def test_on_a_terminal_warnings_stay_above_the_bar(monkeypatch, stderr):
    """As lines of the view, which prints them again when it is drawn anew; those of a file go into the file alone."""
    out, err = Tty(), stderr()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with Display(to_stderr=False) as display:
        display.warned("a checkpoint is damaged")
    warned = [out, err] if stderr is Tty else [err, out]
    assert [stream.getvalue() for stream in warned] == ["fg: warning: a checkpoint is damaged\n", ""]


def on_terminal(name: str) -> None:
    """Both outputs on this terminal."""
    for output in (1, 2):
        os.dup2(os.open(name, os.O_RDWR), output)
    sys.stdout, sys.stderr = (os.fdopen(output, "w", closefd=False) for output in (1, 2))


def test_bar_on_a_terminal(tmp_path, monkeypatch):
    """A real pseudo-terminal: the bar is drawn, with loss and accuracy, and the table after it."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("COLUMNS", "100"), ("TERM", "xterm-256color")):
        monkeypatch.setenv(name, value)
    controller, terminal = pty.openpty()
    process = FgProcess("train", *FLAGS, "--out", "run", prepare=partial(on_terminal, os.ttyname(terminal)))
    shown = b""
    while process.is_alive or select.select([controller], [], [], 0)[0]:
        if select.select([controller], [], [], 0.05)[0]:
            shown += os.read(controller, 4096)
    os.close(terminal)
    os.close(controller)
    text = shown.decode()
    assert process.wait() == 0, text
    assert "\x1b[" in text
    assert "run directory" in text
    for part in ("12/12", "loss ", "accuracy "):
        assert part in text
