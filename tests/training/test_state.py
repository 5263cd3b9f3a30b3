import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tiny_runs import tiny_recipe
from torch import nn

from fgcli.errors import RunError
from fgcli.extend.registry import load_registry
from fgcli.training.assembly import assemble
from fgcli.training.checkpoints import CheckpointStore
from fgcli.training.state import Progress, StepTimes, capture, restore


class OddOptimizer(torch.optim.SGD):
    """Keeps state that is no tensor, and a tuple, in its groups and its slots."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.1)
        self.param_groups[0]["odd"] = (1, 2.5)
        self.param_groups[0]["weight_sum"] = torch.tensor(0.0)

    def step(self, closure=None):
        group = self.param_groups[0]
        group["odd"] = (group["odd"][0] + 1, math.pi)
        group["weight_sum"] += 0.5
        for parameter in group["params"]:
            self.state[parameter]["count"] = self.state[parameter].get("count", 0) + 1


def through_a_file(assembly, folder):
    store = CheckpointStore(folder, "recipe")
    progress = Progress(1.25, StepTimes(cold=[12.5]), skipped=2, best=(0.1, 3))
    store.save(capture(assembly, 3, progress))
    found = store.load_newest()[0]
    assert found is not None
    return found


def take_steps(assembly, steps=3):
    for step in range(steps):
        for parameter in assembly.model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1 * (step + 1))
        assembly.optimizer.step()


@pytest.mark.parametrize(
    ("optimizer", "options"), [("adamw", {"amsgrad": True}), ("adam", {}), ("sgd", {"momentum": 0.9}), ("sgd", {})]
)
def test_optimiser_goes_on_to_the_bit(tmp_path, optimizer, options):
    recipe = tiny_recipe(optimizer=optimizer, optimizer_options=options)
    first, second = (assemble(recipe, load_registry()) for _ in range(2))
    take_steps(first)
    progress = restore(second, through_a_file(first, tmp_path))
    assert (progress.wall_s, progress.times.cold, progress.skipped, progress.best) == (1.25, [12.5], 2, (0.1, 3))
    for assembly in (first, second):
        take_steps(assembly)
    for mine, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_an_optimiser_of_another_kind_goes_on_too(tmp_path):
    assembly = assemble(tiny_recipe(), load_registry())
    first, second = (replace(assembly, optimizer=OddOptimizer(assembly.model.parameters())) for _ in range(2))
    take_steps(first)
    restore(second, through_a_file(first, tmp_path))
    take_steps(second, steps=1)
    group = second.optimizer.param_groups[0]
    assert group["odd"] == (5, math.pi)
    assert group["weight_sum"] == 2.0
    assert second.optimizer.state[group["params"][0]]["count"] == 4


def test_optimiser_state_that_cannot_be_written_is_named(tmp_path):
    assembly = assemble(tiny_recipe(), load_registry())
    assembly.optimizer.param_groups[0]["schedule"] = {"a": object()}
    with pytest.raises(RunError, match=r"optimizer\.group\.0\.schedule of the optimiser is a dict"):
        through_a_file(assembly, tmp_path)


def test_buffers_and_estimator_state_are_kept(tmp_path):
    class Remembering:
        def __init__(self, memory):
            self.memory = memory

        def state(self):
            return self.memory

        def load_state(self, state):
            self.memory = state

    norm, estimator = nn.BatchNorm1d(40), Remembering({"hidden1/basis": torch.arange(3.0)})
    assert norm.running_mean is not None
    assembly = assemble(tiny_recipe(), load_registry())
    assembly = replace(assembly, model=nn.Sequential(norm), estimator=cast("Any", estimator))
    norm.running_mean.fill_(7.0)
    found = through_a_file(assembly, tmp_path)
    norm.running_mean.zero_()
    estimator.memory = {}
    restore(assembly, found)
    assert norm.running_mean.tolist() == [7.0] * 40
    assert estimator.memory["hidden1/basis"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("change", "named"), [({"width": 9}, "hidden1.weight"), ({"depth": 3}, "hidden3.weight")])
def test_checkpoint_of_another_model_is_refused(tmp_path, change, named):
    found = through_a_file(assemble(tiny_recipe(), load_registry()), tmp_path)
    with pytest.raises(RunError, match=f"is of another model: {named} differs in shape or type, or is missing"):
        restore(assemble(tiny_recipe(**change), load_registry()), found)


def resized(found, key):
    found.tensors[key] = torch.zeros(3)


FORGERIES = {
    "slot": (
        lambda c: resized(c, "optimizer.state.1.exp_avg"),
        r"exp_avg of number 1 is \[3\], its parameter \[8, 8\]",
    ),
    "skipped": (lambda c: c.data.update(skipped=-5), "counts -5 skipped updates"),
    "best": (lambda c: c.data.update(best=[1e300, 99999999]), "its best is .*99999999"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_state_is_refused_before_a_step(tmp_path, forgery):
    forge, message = FORGERIES[forgery]
    first, second = (assemble(tiny_recipe(), load_registry()) for _ in range(2))
    take_steps(first)
    found = through_a_file(first, tmp_path)
    forge(found)
    with pytest.raises(RunError, match=message):
        restore(second, found)
