from pathlib import Path

import pytest

from fgcli.recipe import Source
from fgcli.sweep.plan import plan, plan_tuning
from fgcli.sweep.read import parse_sweep, read_sweep
from fgcli.sweep.schema import Sweep
from fgcli.yaml_reader import read_yaml


def sweep(text: str) -> Sweep:
    document = read_yaml(text, "s.yaml")
    assert isinstance(document.data, dict)
    return parse_sweep(Source("s.yaml", document.data, document.values, document.keys))


METHODS = """
base: {epochs: 5, optimizer_options: {eps: 1.0, amsgrad: true}}
grid:
  methods:
    - wt
    - {label: "W̃⊥, k = 5", method: wperp, k: 5, optimizer_options: {eps: 2.0}}
  width: [8, 16]
  seed: [3, 4]
"""


def test_every_trial_once_seeds_outermost_and_methods_innermost():
    assert [trial.name for trial in plan(sweep(METHODS))] == [
        f"{label}-width{width}-seed{seed}" for seed in (3, 4) for width in (8, 16) for label in ("wt", "wperp-k-5")
    ]


def test_a_trial_has_the_base_the_method_and_the_point():
    trial = plan(sweep(METHODS))[3]
    assert (trial.label, trial.axes) == ("W̃⊥, k = 5", {"width": 16, "seed": 3})
    assert trial.overrides == {
        "epochs": 5,
        "method": "wperp",
        "k": 5,
        "width": 16,
        "seed": 3,
        "optimizer_options": {"eps": 2.0, "amsgrad": True},
    }


def test_trials_of_a_group_differ_in_the_seed_alone():
    trials = plan(sweep(METHODS))
    assert [trial.group for trial in trials[:4]] == [trial.group for trial in trials[4:]]
    assert len({trial.group for trial in trials}) == 4


def test_labels_that_look_alike_have_names_of_their_own():
    text = "grid: {methods: [{label: W̃, method: wt}, {label: w, method: wt}, {label: ¿, method: wt}]}"
    assert [trial.name for trial in plan(sweep(text))] == ["w-seed0", "w.2-seed0", "method-seed0"]


def test_no_two_trials_have_one_name():
    methods = "methods: [{label: a, method: wt}, {label: a.2, method: wt}, {label: A, method: wt}]"
    assert [trial.name for trial in plan(sweep(f"grid: {{{methods}, model: ['m:f', m-f]}}"))] == [
        f"{label}-model{model}-seed0" for model in ("m-f", "m-f.2") for label in ("a", "a.2", "a.3")
    ]


def test_the_search_is_the_same_for_every_method_and_axis():
    text = METHODS + "tune: {lr: [0.1, 0.01], seed: [7], epochs: 1}\n"
    trials = plan_tuning(sweep(text))
    assert len(trials) == 2 * 2 * 2
    assert {(one.label, one.axes["width"], one.axes["lr"]) for one in trials} == {
        (label, width, lr) for label in ("wt", "W̃⊥, k = 5") for width in (8, 16) for lr in (0.1, 0.01)
    }
    assert {(one.overrides["epochs"], one.overrides["seed"]) for one in trials} == {(1, 7)}
    assert all("lr" not in one.overrides for one in plan(sweep(text)))


def test_no_search_unless_asked_for():
    assert plan_tuning(sweep(METHODS)) == []


@pytest.mark.parametrize("name", ["table3"])
def test_a_shipped_one(name: str) -> None:
    recipe = Path(__file__).parents[2] / "recipes" / f"{name}.yaml"
    assert len(plan(read_sweep(recipe)[0])) == 100
