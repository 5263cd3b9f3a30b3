"""What a step takes beside backpropagation's is said where it is much, and changes nothing."""

import re
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from tiny_runs import TINY, Listener, rows, tiny_recipe

from fgcli.extend.registry import load_registry
from fgcli.training import cost
from fgcli.training.loop import Training
from fgcli.training.start import begin


def told(path: Path, **changes: Any) -> list[str]:
    listener = Listener()
    begin(tiny_recipe(**changes), path, load_registry(), listener).run()
    return listener.warnings


def test_a_dear_step_is_said_once_and_the_numbers_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert TINY["epochs"] == 4  # twelve steps
    recipe: dict[str, Any] = {"method": "wt", "tangents": 3}
    assert told(tmp_path / "short", **recipe) == []
    monkeypatch.setattr(cost, "LONGER_S", 0)
    monkeypatch.setattr(cost, "_backpropagation_ms", _measured(cost._backpropagation_ms))
    (line,) = told(tmp_path / "dear", **recipe)
    assert re.search(
        r"times backpropagation's: about \d+ s to the end in place of 0 s; cheaper: fewer --tangents, ", line
    )
    for quiet in ({"memory": "replay"}, {"micro_batch": 8}):
        assert told(tmp_path / next(iter(quiet)), **recipe, **quiet) == []
    for before, after in zip(rows(tmp_path / "short"), rows(tmp_path / "dear"), strict=True):
        assert {**before, "wall_s": 0} == {**after, "wall_s": 0}


def test_a_first_step_that_takes_long_is_told_while_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Training._take_step
    monkeypatch.setattr(cost, "FIRST_S", 0.1)
    monkeypatch.setattr(
        Training, "_take_step", lambda self, indices: (sleep(0.3 * (not self.step)), step(self, indices))[1]
    )
    (line,) = told(tmp_path / "slow", method="wperp", k="rank")
    assert line.startswith("the first step, wperp with k rank of 32 samples, is not done after 0.1 s; ")
    assert "cheaper: a smaller --batch-size, --k 10, activation-perturbation, " in line


def _measured(measure: Callable[..., float]) -> Callable[..., float]:
    """As it is measured, and then as if it were a millionth: no machine is so fast."""

    def shorter(*given: Any) -> float:
        taken = measure(*given)
        assert taken > 0
        return 1e-6 * taken

    return shorter


def test_no_derivative_no_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "LONGER_S", 0)
    monkeypatch.setattr(cost, "DEAR", 0)
    assert told(tmp_path / "run", method="spsa", loss="error-rate") == []
