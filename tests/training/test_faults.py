"""What is wrong with an estimate, found before it updates anything."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import run
from torch import nn

from fgcli.errors import RunError
from fgcli.gradient.estimator import Estimate
from fgcli.training.faults import malformed, not_finite

PARAMETERS = {"w": nn.Parameter(torch.zeros(2, 3))}


def estimate(gradient: torch.Tensor, **changes: Any) -> Estimate:
    return Estimate(**{"losses": torch.zeros(4), "gradients": {"w": gradient}} | changes)


def test_a_sound_estimate_has_no_fault() -> None:
    assert malformed(estimate(torch.ones(2, 3)), PARAMETERS) is None
    assert not_finite(estimate(torch.ones(2, 3))) is None
    assert not_finite(estimate(torch.ones(2, 3), gradients={})) is None


def test_a_sum_that_overflows_is_no_fault() -> None:
    assert not_finite(estimate(torch.full((2, 3), 3e38))) is None


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_is_named(value: float) -> None:
    spoilt = torch.ones(2, 3)
    spoilt[1, 1] = value
    assert not_finite(estimate(spoilt)) == "gradient of w"
    assert not_finite(estimate(spoilt, losses=torch.tensor([value]))) == "loss"
    assert not_finite(estimate(spoilt, directional_derivative=torch.tensor([value]))) == "directional derivative"


def test_gradients_are_held_to_dtype_and_device() -> None:
    said = "its gradient of w has dtype torch.float64; it must have torch.float32"
    assert malformed(estimate(torch.ones(2, 3).double()), PARAMETERS) == said
    said = "its gradient of w has device meta; it must have cpu"
    assert malformed(estimate(torch.ones(2, 3, device="meta")), PARAMETERS) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"feedback": "local", "lr": 1e30}, "^the loss is not finite in step 2; .* a smaller --lr may help"),
        (
            {"method": "spsa", "options": {"epsilon": 1e30}},
            "^the loss is not finite in step 1; .* no update came before",
        ),
    ],
)
def test_what_to_look_at_where_a_loss_is_not_finite(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=said):
        run(tmp_path / "run", **changes)
