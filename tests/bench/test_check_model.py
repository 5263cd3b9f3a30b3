"""`check_model` and `fg check-model`: all methods at once, refusals as findings, and a model that is left as it was."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tiny_runs import fg
from torch import Tensor, nn

from fgcli import check_model

SOURCE = """
import torch
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, classes, width=4):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        return self.layers(x)

def small(batch_size=3):
    x = torch.randn(batch_size, 2)
    return nn.Linear(2, 2), x, torch.zeros(batch_size, dtype=torch.long), F.cross_entropy

def nothing():
    return 3

def needs(width):
    return None
"""


class Rounded(nn.Module):
    """Has no forward-mode formula."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.unused = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(2, 2)
        self.a.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.special.gammaincc(torch.ones(3), self.a(x).exp()))


def test_all_findings_come_at_once_and_the_model_is_left_alone() -> None:
    model, x, y = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), torch.randn(4, 2), torch.zeros(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    mine = model[0].weight.grad = torch.ones(3, 2)
    found = check_model(model, x, y.long(), F.cross_entropy, ["backprop", "wt", "wperp:solver=svd"])
    assert model[0].weight.grad is mine
    assert torch.equal(mine, torch.ones(3, 2))
    assert model[2].weight.grad is None
    assert torch.equal(torch.get_rng_state(), drawn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    backprop, wt, svd = found.methods
    for one in (backprop, wt):
        assert not one.refusal
        assert one.first_s is not None
        assert one.step_s is not None
        assert one.peak_bytes is not None
        assert one.peak_bytes > 8 * 17  # all gradients
    assert "site '0'" in svd.refusal
    assert found.coverage is not None
    assert found.coverage.sites == ("0", "2")
    assert found.coverage.perturbed == ("1.weight", "1.bias")
    assert (found.parameters, found.frozen) == (23, 0)


def test_every_method_is_checked_and_a_refusal_is_a_finding() -> None:
    model = Rounded()
    found = check_model(model, torch.randn(3, 2), torch.zeros(3, dtype=torch.long), F.cross_entropy)
    by_name = {one.method: one for one in found.methods}
    assert {"backprop", "backprop-checkpoint", "wperp", "weight-perturbation"} < by_name.keys()
    assert "activation-perturbation:feedback=local" in by_name
    trains = {name for name, one in by_name.items() if not one.refusal}
    assert {"backprop", "backprop-checkpoint"} <= trains
    assert trains.isdisjoint({"wt", "wperp", "activation-perturbation", "weight-perturbation"})  # forward-mode methods
    assert "site 'a' is followed by special_gammaincc, which has no forward-mode formula" in by_name["wt"].refusal
    assert found.frozen == 3


def test_the_command_takes_a_model_of_train_and_a_maker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checked_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    only = ["--method", "backprop", "--method", "wt"]
    size = ["--dataset", "digits", "--batch-size", "5"]
    done = fg("check-model", "checked_nets:Net", *size, "--model-option", "width=3", *only, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["parameters"] == 64 * 3 + 3 + 3 * 10 + 10
    assert [one["method"] for one in found["methods"]] == ["backprop", "wt"]
    assert found["coverage"]["sites"] == ["layers.1", "layers.3"]
    done = fg("check-model", "checked_nets:small", "--batch-size", "7", *only)
    assert done.exit_code == 0, done.output
    assert "6 numbers are trained, 0 require no gradient" in done.stdout
    assert not list(tmp_path.glob("runs*"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["checked_nets:nothing"], r"MODEL: checked_nets:nothing gave int; it must give \(model, inputs\) or"),
        (["checked_nets:needs"], r"'checked_nets:needs' takes width; it must take input_shape and classes, or"),
        (["checked_nets:small", "--dataset", "digits"], "--dataset is given, but checked_nets:small makes its own"),
        (["checked_nets:nothing", "--batch-size", "2"], "--batch-size is 2, but checked_nets:nothing takes no batch"),
        (["checked_nets:smal"], "did you mean 'small'"),
        (["nope"], "nope"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    (tmp_path / "checked_nets.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = fg("check-model", *arguments)
    assert done.exit_code == 2
    assert re.search(said, done.stderr), done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_torchs_profiler_writes_nothing_beside_the_table() -> None:
    command = [sys.executable, "-m", "fgcli", "check-model", "mlp", "--method", "backprop"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "backprop" in done.stdout
