"""Diagnostics during a run leave no trace in it."""

import json

import pytest
import torch
from tiny_runs import Listener, Stopper, go_on, rows, run, tiny_recipe, untimed, weights

from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.runs.diagnostics import DIAGNOSTICS
from fgcli.runs.rows import read_rows
from fgcli.training.start import begin

ALL = [
    "bias",
    "variance",
    "mse",
    "covariance_norm",
    "covariance_rms",
    "cosine",
    "norm_ratio",
    "effective_rank",
    "overlap",
]
METHODS = {
    "wt": {},
    "wperp": {"k": 3, "options": {"refresh": 2}},
    "wperp-ns": {"k": 3, "options": {"refresh": 2}},
    "backprop": {},
    "weight-perturbation": {},
}


def recorded(path):
    return read_rows(path / "diagnostics.jsonl")[0]


def names_for(method):
    return ["overlap"] if method in ("backprop", "weight-perturbation") else ALL


def test_every_name_is_known():
    assert [name for name in DIAGNOSTICS if not name.startswith("prediction_")] == ALL


@pytest.mark.parametrize("method", METHODS)
def test_the_run_is_the_same_bit_for_bit(tmp_path, method):
    changes = {"method": method, **METHODS[method]}
    plain = run(tmp_path / "plain", **changes)
    looked_at = run(tmp_path / "looked-at", **changes, diagnostics=names_for(method), diagnostics_every=1)
    assert weights(tmp_path / "plain") == weights(tmp_path / "looked-at")
    assert untimed(rows(tmp_path / "plain")) == untimed(rows(tmp_path / "looked-at"))
    for key in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "steps"):
        assert plain[key] == looked_at[key]
    assert [(row["step"], row["epoch"]) for row in recorded(tmp_path / "looked-at")] == [
        (0, 0.0), (3, 1.0), (6, 2.0), (9, 3.0), (12, 4.0),
    ]  # fmt: skip


def test_dropout_draws_what_it_would_have_drawn(tmp_path):
    """Diagnostics look at the model in eval mode, so that torch's own generator stays where it is."""

    class WithDropout(Listener):
        def started(self, plan):
            torch.manual_seed(0)

    def train(path, **changes):
        training = begin(tiny_recipe(**changes), path, load_registry(), WithDropout())
        training.assembly.model.add_module("dropout", torch.nn.Dropout())
        return training.run().metrics.train_loss

    assert train(tmp_path / "plain") == train(tmp_path / "looked-at", diagnostics=["bias", "cosine"])


def test_rows_hold_what_was_asked_for_of_every_layer(tmp_path):
    run(tmp_path / "run", method="wperp", k=3, diagnostics=ALL, diagnostics_every=2)
    row = recorded(tmp_path / "run")[-1]
    assert set(row["layers"]) == {"hidden1", "hidden2", "output"}
    first = row["layers"]["hidden1"]
    assert list(first) == ALL
    assert first["effective_rank"] == pytest.approx(3, abs=0.5)
    assert first["bias"] > 0
    assert first["overlap"]["k"] == [1, 2, 5, 8]
    assert first["overlap"]["overlap"][-1] == pytest.approx(1)
    assert "overlap" not in row["layers"]["output"]
    assert [row["step"] for row in recorded(tmp_path / "run")] == [0, 6, 12]


def test_moments_are_those_of_the_state_and_the_warm_start(tmp_path):
    """The last row against the run's own estimator at its last state."""
    from fgcli.diagnostics.batches import draw_batch
    from fgcli.diagnostics.exact import exact_moments
    from fgcli.diagnostics.subject import Subject
    from fgcli.training.losses import cross_entropy

    training = begin(
        tiny_recipe(method="wperp", k=3, diagnostics=["bias"]), tmp_path / "run", load_registry(), Listener()
    )
    training.run()
    assembly, data = training.assembly, training.assembly.dataset
    batch = draw_batch(data.train_inputs, data.train_targets, 32, assembly.streams, 12)
    subject = Subject(assembly.model, cross_entropy, assembly.estimator, assembly.coverage, 12)
    exact = exact_moments(subject, batch)
    assert exact is not None
    layers = recorded(tmp_path / "run")[-1]["layers"]
    assert {name: layer["bias"] for name, layer in layers.items()} == {
        n: one.metrics["bias"] for n, one in exact.items()
    }


@pytest.mark.parametrize("step", [4])
def test_a_resumed_run_ends_with_the_same_rows(tmp_path, step):
    changes = {"method": "wperp", "k": 3, "diagnostics": ["bias", "cosine"], "diagnostics_every": 1, "eval_every": 2}
    run(tmp_path / "whole", **changes)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stopper(step), **changes)
    go_on(tmp_path / "stopped")
    assert recorded(tmp_path / "stopped") == recorded(tmp_path / "whole")


def test_its_time_is_not_that_of_a_step(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("fgcli.training.loop._now", lambda device: next(clock))
    training = begin(
        tiny_recipe(max_steps=2, diagnostics=["bias"], diagnostics_every=1),
        tmp_path / "run",
        load_registry(),
        Listener(),
    )
    training.run()
    assert training.progress.times.cold == [2e3, 2e3]


def test_what_cannot_be_measured_is_refused(tmp_path):
    with pytest.raises(UsageError, match="method backprop guesses no gradient of a layer's output; only overlap"):
        begin(tiny_recipe(method="backprop", diagnostics=["bias"]), tmp_path / "run", load_registry(), Listener())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"diagnostics": ["prediction_bias"]}, "--diagnostics has prediction_bias, .*: set --feedback, or drop it"),
        (
            {"diagnostics": ["bias", "effective_rank"], "feedback": "local"},
            "--diagnostics has effective_rank, .* with feedback and correction 0 none is made: set --correction",
        ),
    ],
)
def test_what_has_no_value_is_refused(tmp_path, options, said):
    with pytest.raises(UsageError, match=said):
        begin(tiny_recipe(**options), tmp_path / "run", load_registry(), Listener())


def test_feedback_has_its_prediction_beside_the_estimate(tmp_path):
    asked = ["bias", "prediction_bias", "prediction_cosine"]
    run(tmp_path / "run", diagnostics=asked, feedback="local", correction=0.5)
    row = json.loads((tmp_path / "run" / "diagnostics.jsonl").read_text().splitlines()[-1])
    first = row["layers"]["hidden1"]
    assert first.keys() == set(asked)
    assert first["bias"] == pytest.approx(first["prediction_bias"] / 2, rel=1e-3)


def test_rows_are_strict_json(tmp_path):
    run(tmp_path / "run", diagnostics=ALL)
    for line in (tmp_path / "run" / "diagnostics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda token: pytest.fail(token))
