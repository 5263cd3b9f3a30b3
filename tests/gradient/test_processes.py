"""Several processes: what they say together is what one says, and what cannot be split is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import several
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import forking
from several import CASES, SAMPLES, Residual, WithTable, chain, estimates, losses
from torch import Tensor, nn

from fgcli import Batch, ForwardGradient, LossRefused, ModelRefused, OptionRefused, SampledGuess
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import ProcessGone
from fgcli.gradient.processes import Processes
from fgcli.methods.backprop import Backprop
from fgcli.methods.transpose import Transpose

PATIENCE = 600  # seconds, on a machine that does much else


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one_and_send_what_they_say(tmp_path: Path) -> None:
    """All cases by one pair of processes, in float64: both have the same to the bit, and one process has it, too."""
    pair = [forking.Process(target=several.main, args=(tmp_path, rank, 2), daemon=True) for rank in range(2)]
    for process in pair:
        process.start()
    one = {name: estimates(case) for name, case in CASES.items()}
    for process in pair:
        process.join(PATIENCE)
    assert [process.exitcode for process in pair] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    unlike = [name for name in CASES if any(not torch.equal(v, second[name][key]) for key, v in first[name].items())]
    assert unlike == []
    worst = {name: _error(one[name], first[name]) for name in CASES}
    assert {name: error for name, error in worst.items() if error > (1e-9 if name == "spsa" else 1e-12)} == {}
    sent = {name: int(first[name]["sent"]) for name in CASES}
    claimed = {name: 8 * case.scalars * several.STEPS for name, case in CASES.items() if case.scalars}
    assert {name: sent[name] for name in claimed} == claimed
    weights = sum(p.numel() for p in chain().parameters())
    assert sent["wt"] == sent["backprop"] == 8 * weights * several.STEPS
    assert sent["direct"] > sent["wt"]  # and what feedback learns from

    told = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert told[0]["faults"] == told[1]["faults"] == dict.fromkeys(("weight-perturbation", "wt", "backprop"), True)
    says = {"seed": "method, seed or option", "batch": "batch", "model": "model"}
    expected = {c: f"process 1 has another {name} than process 0; all must have the same" for c, name in says.items()}
    assert told[0]["refused"] == told[1]["refused"] == expected


def _error(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    """The largest of all steps and parameters, relative."""
    assert one.keys() == two.keys()
    gradients = {key: value for key, value in one.items() if key != "sent"}
    return max(float((two[key] - g).norm() / g.norm().clamp_min(1e-300)) for key, g in gradients.items())


@pytest.fixture
def two() -> Processes:
    """This process as the first of two, of which the other is never asked."""
    processes = Processes()
    processes.size = 2
    return processes


def test_a_group_without_this_process_is_refused() -> None:
    outside: Any = dist.GroupMember.NON_GROUP_MEMBER
    with pytest.raises(OptionRefused, match="this process is not in process_group"):
        ForwardGradient(nn.Linear(2, 2), process_group=outside)


def test_a_default_group_that_was_made_anew_is_not_taken_for_the_old_one(
    two: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "linux":
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        with pytest.raises(ProcessGone, match="the default group has been made anew"):
            two.add({"sum": torch.ones(1)})
    finally:
        dist.destroy_process_group()
    with pytest.raises(ProcessGone, match="has not been initialized"):
        two.add({"sum": torch.ones(1)})


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) if x.sum() < 100 else self.second(x)


class OfSize(nn.Sequential):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) / len(input)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)), "samples meet in it"),
        (nn.Sequential(nn.Linear(6, 8), nn.Dropout(0.1), nn.Linear(8, 4)), "it draws random numbers"),
        (OfSize(nn.Linear(6, 8), nn.Linear(8, 4)), "size of the batch|samples meet"),
    ],
)
def test_models_that_rows_do_not_compute_alike_are_refused_by_every_method(
    two: Processes, model: nn.Module, why: str
) -> None:
    for estimator in (GuessEstimator(Transpose(None)), Backprop(None)):  # pyright: ignore[reportArgumentType]
        estimator.split_over(two)
        with pytest.raises(ModelRefused, match=f"cannot be split over 2 processes: .*({why})"):
            estimator.bind(model, torch.randn(SAMPLES, 6))
    model.eval()
    if "size" not in why:
        two.refuse_unsplittable(model, torch.randn(SAMPLES, 6))


class Own(SampledGuess):
    needs = "nothing"

    def sample(self, layer: Any, upstream: Any, prepared: Any, generator: torch.Generator) -> Tensor:
        return torch.randn(layer.output.shape, generator=generator)


@pytest.mark.parametrize(
    ("guess", "model", "why"),
    [
        (Own(), Residual(), "'first' has a guess that Own draws for itself"),
        (Transpose(None), WithTable(), "'table' has one guess for the whole batch, made of every sample's Jacobian"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_guesses_of_more_than_a_sample_are_refused(two: Processes, guess: Any, model: nn.Module, why: str) -> None:
    estimator = GuessEstimator(guess)
    estimator.split_over(two)
    with pytest.raises(ModelRefused, match=why):
        estimator.bind(model, torch.randn(SAMPLES, 6))


def test_a_branch_that_one_process_might_not_see_is_refused(two: Processes) -> None:
    with pytest.raises(ModelRefused, match="another way at 'second'"):
        two.refuse_branch("second")


def _contrast(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs @ outputs.T, torch.arange(len(outputs)), reduction="none")


@pytest.mark.parametrize(
    "loss",
    [
        lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="sum"),
        lambda outputs, targets: F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 2, 3, 4])),
        lambda outputs, targets: F.cross_entropy(outputs, targets, ignore_index=0),
        _contrast,
        lambda outputs, targets: _contrast(outputs, targets).mean(),
    ],
)
@pytest.mark.parametrize("samples", [2, 7])
def test_losses_that_are_no_mean_over_samples_are_refused(two: Processes, loss: Any, samples: int) -> None:
    torch.manual_seed(0)  # some other outputs have the same mean by chance
    outputs, targets = torch.randn(samples, 4), torch.arange(samples) % 4
    with pytest.raises(LossRefused, match="is not the mean of its samples' own losses"):
        two.loss(loss)(outputs, targets)


@pytest.mark.parametrize("samples", [1, 2, 7])
def test_means_over_samples_are_taken(two: Processes, samples: int) -> None:
    outputs, targets = torch.randn(samples, 4), torch.arange(samples) % 4
    for loss in (losses, F.cross_entropy):
        assert torch.equal(two.loss(loss)(outputs, targets), loss(outputs, targets))
    with pytest.raises(LossRefused, match="no sample a row"):
        two.loss(lambda outputs, targets: losses(outputs["a"], targets))(
            {"a": outputs, "b": torch.zeros(samples + 1)}, targets
        )


def test_rows_are_shared_out_and_a_batch_that_is_too_small_is_refused(two: Processes) -> None:
    batch = Batch(torch.arange(5.0), torch.arange(5))
    rows = []
    for two.rank in (0, 1):
        rows += two.own(batch).inputs.tolist()
    assert rows == [0, 1, 2, 3, 4]
    with pytest.raises(OptionRefused, match="a batch has 1 samples; it must have at least one for each of the 2"):
        two.own(batch.rows(slice(1)))
