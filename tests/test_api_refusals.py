"""What ForwardGradient refuses of inputs and of a guess space, in one line."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fgcli import ForwardGradient, GuessFault, UsageError


def test_inputs_in_float64_for_a_model_in_float32_are_one_line() -> None:
    gradient = ForwardGradient(nn.Linear(3, 2), "activation-perturbation")
    with pytest.raises(UsageError, match=r"x is in float64 and the model's weights in float32: use x.float\(\)"):
        gradient.step(torch.ones(4, 3, dtype=torch.double), torch.zeros(4, dtype=torch.long), F.cross_entropy)


def test_a_guess_space_beyond_the_machine_s_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.methods.orthogonal.krylov.machine_memory", lambda: 100)
    monkeypatch.setattr("fgcli.methods.orthogonal.krylov.random_block", None)  # not made: it is d × d at full rank
    model = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2))
    solvers: list[tuple[dict[str, Any], str]] = [
        ({}, ", or use solver=mean$"),
        ({"solver": "mean"}, "set a smaller k or batch$"),
    ]
    for options, instead in solvers:
        gradient = ForwardGradient(model, "wperp", k="rank", **options)
        with pytest.raises(GuessFault, match=rf"site '0': .* GiB, and this machine has .*{instead}"):
            gradient.step(torch.ones(64, 1, 8), torch.zeros(64, dtype=torch.long), F.cross_entropy)
