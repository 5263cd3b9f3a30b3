"""Losses, estimates and weights that are not finite, in a run."""

import json
from collections.abc import Container
from dataclasses import replace

import pytest
import torch
from tiny_runs import Listener, Stopper, make, rows, run, untimed

from fgcli.errors import RunError
from fgcli.extend.registry import load_registry
from fgcli.gradient.estimator import Estimate
from fgcli.training.start import resume


class Broken:
    """An estimator with something that is not finite from step 5 on, or in some steps."""

    def __init__(self, sound, what, value, steps: Container[int] = range(4, 1000)):
        self.sound, self.what, self.value, self.steps = sound, what, value, steps

    def estimate(self, model, loss, batch, rng):
        estimate = self.sound.estimate(model, loss, batch, rng)
        if rng.step not in self.steps:
            return estimate
        spoilt = torch.zeros(len(batch.inputs))
        spoilt[3] = self.value
        return replace(estimate, **{self.what: spoilt})

    def state(self):
        return self.sound.state()

    def load_state(self, state):
        self.sound.load_state(state)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("what", "said"), [("losses", "the loss"), ("directional_derivative", "the directional derivative")]
)
def test_not_finite_stops_before_the_update(tmp_path, what, said, value):
    assert what in Estimate.__dataclass_fields__
    training = make(tmp_path / "run", seed=7)
    training.assembly = replace(training.assembly, estimator=Broken(training.assembly.estimator, what, value))
    with pytest.raises(
        RunError,
        match=rf"{said} is not finite in step 5; stopped before the update \(seed 7, .*last good .* of step 3\)",
    ) as stopped:
        training.run()
    assert stopped.value.exit_code == 1
    assert all(torch.isfinite(parameter).all() for parameter in training.assembly.model.parameters())
    assert training.step == 4
    assert training.store.steps() == [3]
    assert [row["step"] for row in rows(tmp_path / "run")] == [3]


@pytest.mark.parametrize("what", ["losses", "directional_derivative"])
def test_what_is_not_finite_is_left_out_where_the_recipe_says_so(tmp_path, what):
    def spoilt(path):
        listener = Listener()
        training = make(path, listener, on_nonfinite="skip")
        broken = Broken(training.assembly.estimator, what, float("nan"), steps=(4, 7))
        training.assembly = replace(training.assembly, estimator=broken)
        return training, listener

    (training, listener), path = spoilt(tmp_path / "run"), tmp_path / "run"
    before = {}
    training.reporter.stepped = lambda step, loss: before.update(
        {step: [parameter.clone() for parameter in training.parameters.values()]}
    )
    result = training.run()
    said = {"losses": "loss", "directional_derivative": "directional derivative"}[what]
    assert listener.warnings == [
        f"the {said} is not finite in step 5; this update is left out, and later ones like it without a word",
        "2 of 12 updates were left out, as something was not finite",
    ]
    for step in range(2, 13):
        same = [torch.equal(old, new) for old, new in zip(before[step - 1], before[step], strict=True)]
        assert all(same) == (step in (5, 8))
    assert result.skipped_updates == 2
    assert json.loads((path / "result.json").read_text())["skipped_updates"] == 2

    stopped, _ = spoilt(tmp_path / "stopped")
    stopped.reporter = Stopper(7)
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    resumed = resume(tmp_path / "stopped", None, {}, load_registry(), Listener())
    broken = Broken(resumed.assembly.estimator, what, float("nan"), steps=(4, 7))
    resumed.assembly = replace(resumed.assembly, estimator=broken)
    assert untimed(resumed.run()) == untimed(result)


def overflow(training):
    """Give the run a sample at which the first unit is infinite."""
    first = next(iter(training.parameters.values()))
    training.assembly.dataset.train_inputs[3] = 3e38 * first[0].detach().sign()


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "backprop"},
        {"method": "wperp", "k": 2, "options": {"solver": "krylov"}},  # which starts from the batch before
        {"method": "wt", "diagnostics": ["bias", "overlap"], "diagnostics_every": 1},
        {"method": "backprop", "subspace": "bulk", "subspace_k": 2, "subspace_every": 1},
    ],
)
def test_a_sample_that_overflows_is_left_out_and_counted(tmp_path, changes):
    def spoilt(path, listener, **more):
        training = make(path, listener, **changes, **more)
        overflow(training)
        return training

    listener = Listener()
    result = spoilt(tmp_path / "run", listener, on_nonfinite="skip").run().as_json()
    assert result["skipped_updates"] == 4  # one an epoch, and no later update for what the sample left behind
    assert [row["train_left_out"] for row in rows(tmp_path / "run")] == [1, 1, 1, 1]
    assert result["train_left_out"] == 1
    assert "test_left_out" not in result
    assert 0 < result["train_loss"] < 3
    assert "(1 of training), which count as wrong" in listener.warnings[1]
    assert (tmp_path / "run" / "checkpoints" / "step-0000000012.json").exists()
    if "diagnostics" in changes:
        recorded = [json.loads(line) for line in (tmp_path / "run" / "diagnostics.jsonl").read_text().splitlines()]
        assert [set(row["layers"]) for row in recorded] == [{"hidden1", "hidden2", "output"}] * 5
    with pytest.raises(RunError, match=r"is not finite in step"):
        spoilt(tmp_path / "stopped", Listener()).run()


def test_a_run_whose_updates_are_all_left_out_says_that_nothing_was_trained(tmp_path):
    training = make(tmp_path / "run", on_nonfinite="skip")
    broken = Broken(training.assembly.estimator, "losses", float("nan"), steps=range(12))
    training.assembly = replace(training.assembly, estimator=broken)
    with pytest.raises(RunError, match=r"all 12 updates were left out, .*: nothing was trained"):
        training.run()
    assert not (tmp_path / "run" / "result.json").exists()


def test_an_update_that_is_left_out_leaves_buffers_as_they_are(tmp_path):
    training = make(tmp_path / "run", method="backprop", on_nonfinite="skip")
    seen = torch.zeros(())

    def see(model, inputs):
        if model.training:
            seen.add_(inputs[0].square().sum())

    training.assembly.model.register_buffer("seen", seen)
    training.assembly.model.register_forward_pre_hook(see)
    overflow(training)
    training.run()
    assert seen.isfinite()
    assert seen > 0


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_weight_that_is_not_finite_is_named_and_is_in_no_checkpoint(tmp_path, policy):
    training = make(tmp_path / "run", on_nonfinite=policy, bias=True)

    def spoil(step, loss):
        if step == 5:  # a unit that ReLU switches off for all samples: no loss shows it
            training.parameters["hidden2.bias"][2] = -torch.inf

    training.reporter.stepped = spoil
    said = (
        r"the weight hidden2\.bias is not finite after step 5; stopped before the next update \(seed 0, .* of step 3\)"
    )
    with pytest.raises(RunError, match=said):
        training.run()
    assert training.store.steps() == [3]


def test_a_weight_that_overflows_in_an_update_is_in_no_checkpoint(tmp_path):
    training = make(tmp_path / "run")

    def spoil(row):
        if row.step == 6:
            training.parameters["hidden2.weight"][2, 2] = torch.nan

    training.reporter.evaluated = spoil
    with pytest.raises(RunError, match=r"the weight hidden2\.weight is not finite after step 6"):
        training.run()
    assert training.store.steps() == [3]


def test_evaluation_that_is_not_finite_stops_before_the_checkpoint(tmp_path):
    with pytest.raises(RunError, match=r"the training loss is not finite after step 1 .*there is no checkpoint yet"):
        run(tmp_path / "run", method="backprop", optimizer="sgd", lr=1e30, batch_size=80)
    assert rows(tmp_path / "run") == []
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []
