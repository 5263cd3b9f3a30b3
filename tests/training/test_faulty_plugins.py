"""A plugin's code that misbehaves in a run: the error names what, of which plugin, at which site and in which step."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import TINY, Listener, go_on, rows, run

from fgcli.errors import RunError, UsageError
from fgcli.extend.registry import Registry, load_registry
from fgcli.recipe import read_recipe, resolve
from fgcli.training.start import begin, resume

SOURCE = (Path(__file__).parents[1] / "faulty_plugin.py").read_text(encoding="utf-8")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    path = tmp_path / "faulty.py"
    path.write_text(SOURCE)
    yield load_registry((path,))
    load_registry.cache_clear()
    sys.modules.pop("faulty", None)


IN_A_RUN = {
    "Shape": r"site 'hidden2': map returned a tensor of shape \[32, 7\]; it must be \[32, 8\]",
    "Dtype": r"site 'hidden2': map returned a tensor of dtype torch.float64; it must be torch.float32",
    "Graph": r"site 'hidden2': map returned a tensor that requires grad; it must record no graph: detach",
    "Number": r"site 'hidden2': map returned a int; it must return a tensor \[32, 8\]",
    "Raises": r"site 'hidden2': map raised ValueError: no luck",
    "Prepare": r"site 'hidden2': prepare raised ValueError: no luck",
    "Leaves": r"site 'hidden2': map raised SystemExit: 0",
    "Sparse": r"site 'hidden2': map returned a tensor of layout torch.sparse_coo; it must be torch.strided",
    "Memory": r"site 'hidden2': prepare raised TypeError: memory takes tensors by name, not 'count', a int",
    "Noise": r"site 'hidden2': linearize gave noise_dim 'many'; it must be a number of 0 or more",
    "NoMap": r"site 'hidden2': linearize returned a function; it must return a LinearMap",
    "EstimatorRaises": r"ValueError: no luck",
    "Unknown": r"it gave a gradient for 'x', which is no parameter of the model",
    "GradientShape": r"its gradient of hidden1.weight has shape \[40, 8\]; it must have \[8, 40\]",
    "Nothing": r"estimate returned NoneType; it must return an Estimate",
}


def train(registry: Registry, path: Path, **changes: Any) -> Any:
    return begin(resolve(None, TINY | {"depth": 3} | changes, registry), path, registry, Listener())


@pytest.mark.parametrize(("method", "said"), IN_A_RUN.items())
def test_a_fault_names_method_plugin_site_and_step(registry: Registry, tmp_path: Path, method: str, said: str) -> None:
    with pytest.raises(RunError, match=rf"^method {method} of .*faulty\.py failed in step 5: {said} \(seed 0, .*"):
        train(registry, tmp_path / "run", method=method).run()
    assert [row["step"] for row in rows(tmp_path / "run")] == [3]


def test_a_schedule_that_raises_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"^lr_schedule ScheduleRaises failed in step 2: ValueError: no luck \(seed 0, .*"
    ):
        train(registry, tmp_path / "run", lr_schedule="ScheduleRaises").run()


def test_an_optimizer_that_raises_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^optimizer StepRaises failed in step 1: ValueError: no luck \(seed 0, .*"):
        train(registry, tmp_path / "run", optimizer="StepRaises").run()


def test_estimator_state_that_cannot_be_written_is_named(registry: Registry, tmp_path: Path) -> None:
    said = r"^cannot write a checkpoint: state of method State of .*faulty\.py gave {'count': 3}; it must give a map"
    with pytest.raises(RunError, match=said):
        train(registry, tmp_path / "run", method="State").run()


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("Nan", "directional derivative"),
        ("Sampled", "directional derivative"),
        ("Masked", "gradient of hidden2.weight"),
    ],
)
def test_a_guess_that_is_not_finite_is_found_before_the_update(
    registry: Registry, tmp_path: Path, method: str, what: str
) -> None:
    training = train(registry, tmp_path / "run", method=method)
    said = rf"^the {what} is not finite in step 5 \(method {method} of .*faulty\.py, site 'hidden2': the guess is not "
    with pytest.raises(RunError, match=said + r"finite\); stopped before the update \(seed 0, "):
        training.run()
    assert all(torch.isfinite(parameter).all() for parameter in training.assembly.model.parameters())


def test_a_loss_that_is_not_finite_blames_no_guess(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is not finite in step \d+; stopped before the update \(seed"):
        train(registry, tmp_path / "run", method="Sound", optimizer="sgd", lr=1e30).run()


BEFORE_A_RUN = {
    "NoLoss": ("loss", r"gave NoneType; it must give an Objective, or a function of outputs and targets"),
    "LossRaises": ("loss", r"failed: ValueError: no luck"),
    "LossShape": ("loss", r"gave torch.float32 \[2, 10\] for 2 samples; it must give their losses \[2\], or the mean"),
    "NoSchedule": ("lr_schedule", r"gave float; it must give a LRScheduler"),
    "NoMethod": (
        "method",
        r"failed: TypeError: NoMethod is no guess method: it must derive from GuessMethod \(with line",
    ),
    "Constructor": ("method", r"failed: ValueError: no luck"),
    "Exits": ("method", r"failed: SystemExit: 0"),
    "Needs": ("method", r"failed: TypeError: Needs.needs is 'all'; it must be one of \('nothing', 'operator', 'matr"),
    "NotLinear": ("method", r"failed: GuessFault: site 'hidden1': map is not linear: of u - 2 v it gives what is off"),
    "Abstract": ("method", r"failed: TypeError: Can't instantiate abstract class Abstract .*'?linearize'?"),
    "Unbound": ("method", r"failed: TypeError: bind returned NoneType; it must return a Coverage"),
    "ForwardRaises": ("model", r"failed: ValueError: no luck"),
    "FewOutputs": ("model", r"gave \[2, 4\] for 2 samples; it must give \[2, 10\], a number for each of the classes"),
    "Bind": ("method", r"failed: ValueError: no luck"),
    "NoModule": ("model", r"gave list; it must give a Module"),
    "ModelRaises": ("model", r"failed: ValueError: no luck"),
    "NoDataset": ("dataset", r"gave NoneType; it must give a Dataset"),
    "NoOptimizer": ("optimizer", r"gave NoneType; it must give a Optimizer"),
}


@pytest.mark.parametrize("name", BEFORE_A_RUN)
def test_a_fault_before_the_run_writes_nothing(registry: Registry, tmp_path: Path, name: str) -> None:
    section, said = BEFORE_A_RUN[name]
    changes = {"dataset_options": {}} if section == "dataset" else {}
    changes |= {"width": None, "depth": None} if section == "model" else {}
    with pytest.raises(UsageError, match=rf"^{section} {name} of /.*/faulty\.py {said}"):
        train(registry, tmp_path / "run", **changes, **{section: name})
    assert not (tmp_path / "run").exists()


def test_a_run_whose_plugin_is_missing_says_which_it_was(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="failed in step 5"):
        train(registry, tmp_path / "run", method="Raises").run()
    said = r"unknown method 'Raises'; .*run was begun with the plugin /.*faulty\.py, which is not in use: give it"
    with pytest.raises(UsageError, match=said):
        go_on(tmp_path / "run")
    environment = tmp_path / "run" / "environment.json"
    environment.write_text(environment.read_text().replace("faulty file", "faulty of old"))
    listener = Listener()
    resume(tmp_path / "run", None, {}, registry, listener)
    assert len(listener.warnings) == 1
    assert listener.warnings[0].startswith("method Raises was faulty of old ")
    assert " so far, and is faulty file " in listener.warnings[0]


def test_a_sound_method_of_a_plugin_trains_as_the_built_in_one(registry: Registry, tmp_path: Path) -> None:
    theirs = train(registry, tmp_path / "theirs", method="faulty:Sound").run()
    ours = run(tmp_path / "ours", method="wt", depth=3)
    assert theirs.metrics.train_loss == ours["train_loss"]
    written = resolve(read_recipe(tmp_path / "theirs" / "recipe.yaml"), {}, registry)
    assert written.method == "faulty:Sound"
