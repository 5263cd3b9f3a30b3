"""The script for machines with an accelerator, on this one's CPU."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    module = __import__("gpu")
    monkeypatch.setattr(module, "METHODS", ["backprop", "wt"])
    monkeypatch.setattr(module, "STEPS", 3)
    yield module
    for name in ("gpu", "step_time", "hand_written"):
        del sys.modules[name]


def run(gpu: Any, monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--widths", "8,12", *flags])
    gpu.main()


def test_each_method_has_a_row_a_width(gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run(gpu, monkeypatch)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert [row[:2] for row in rows if row and row[0] in ("8", "12")] == [
        [width, method] for width in ("8", "12") for method in ("backprop", "wt")
    ]
    assert [row[1] for row in rows if row and row[0] == "wt"] == ["0.0e+00"]


def test_what_the_time_was_too_short_for_is_said(gpu: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    run(gpu, monkeypatch, "--seconds", "0")
    assert "The time was up before: backprop at 8, wt at 8, backprop at 12, wt at 12" in capsys.readouterr().out


def test_other_gradients_than_the_cpus_are_an_error(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "differences", lambda _: {"backprop": 0.0, "wt": 3e-8})
    with pytest.raises(SystemExit, match=r"gradients differ from the CPU's: \{'wt': 3e-08\}"):
        run(gpu, monkeypatch, "--seconds", "0")


def test_a_difference_is_a_share_of_a_gradients_norm(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, cpu = gpu.gradients, torch.device("cpu")
    other = torch.device("cpu", 0)

    def longer_there(name: str, device: torch.device) -> dict[str, torch.Tensor]:
        return {key: one * (1 + 1e-3 * (device == other)) for key, one in exact(name, cpu).items()}

    monkeypatch.setattr(gpu, "gradients", longer_there)
    assert gpu.differences(other) == pytest.approx({"backprop": 1e-3, "wt": 1e-3})
