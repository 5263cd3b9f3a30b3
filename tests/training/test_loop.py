from dataclasses import replace

import pytest
import torch
from fake_plugins import registry_with
from tiny_runs import TINY, Listener, Stopper, go_on, make, rows, run, untimed, weights

from fgcli.extend.entry import Entry
from fgcli.extend.registry import load_registry
from fgcli.recipe import resolve
from fgcli.runs.results import Metrics
from fgcli.runs.rows import read_rows
from fgcli.training.assembly import assemble
from fgcli.training.checkpoints import CheckpointStore
from fgcli.training.start import begin, resume
from fgcli.training.state import capture

METHODS = load_registry().names("guess method") + load_registry().names("estimator")


def test_result_and_rows(tmp_path):
    result = run(tmp_path / "run", method="backprop", epochs=5, eval_every=2)
    written = rows(tmp_path / "run")
    assert [(row["step"], row["epoch"]) for row in written] == [(6, 2.0), (12, 4.0), (15, 5.0)]
    assert {key: result[key] for key in ("steps", "train_loss", "test_accuracy")} == {
        "steps": 15,
        "train_loss": written[-1]["train_loss"],
        "test_accuracy": written[-1]["test_accuracy"],
    }
    assert written[-1]["train_loss"] < written[0]["train_loss"]
    assert result["step_ms_quartiles"][0] <= result["step_ms_median"] <= result["step_ms_quartiles"][1]
    assert 0 < result["step_ms_median"] < 1e3 * result["wall_s"]


def test_evaluation_covers_the_whole_splits(tmp_path):
    training = make(tmp_path / "run", method="backprop", epochs=1)
    result, dataset = training.run(), training.assembly.dataset
    with torch.no_grad():
        outputs = training.assembly.model(dataset.test_inputs)
        loss = torch.nn.functional.cross_entropy(outputs, dataset.test_targets)
    assert result.metrics.test_loss == pytest.approx(loss.item(), rel=1e-6)
    assert result.metrics.test_accuracy == (outputs.argmax(1) == dataset.test_targets).double().mean().item()


def test_evaluation_is_in_eval_mode_and_training_goes_on_in_train_mode(tmp_path):
    training = make(tmp_path / "run", method="backprop", epochs=1)
    modes = []
    training.assembly.model.register_forward_hook(lambda model, _, __: modes.append(model.training))
    training._evaluate()
    assert modes
    assert not any(modes)
    assert training.assembly.model.training


def test_epoch_visits_every_sample_once_in_an_order_of_its_own(tmp_path):
    training = make(tmp_path / "run", epochs=2)
    seen = []
    for indices in training._batches():
        seen.append(indices)
        training.step += 1
    assert [len(indices) for indices in seen] == [32, 32, 16] * 2
    first, second = torch.cat(seen[:3]), torch.cat(seen[3:])
    assert torch.equal(first.sort().values, torch.arange(80))
    assert torch.equal(second.sort().values, torch.arange(80))
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("max_steps", "steps"), [(4, 4), (1, 1), (12, 12), (1000, 12)])
def test_max_steps_ends_inside_an_epoch(tmp_path, max_steps, steps):
    result = run(tmp_path / "run", max_steps=max_steps, eval_every=3)
    assert result["steps"] == steps
    assert rows(tmp_path / "run")[-1]["step"] == steps


def test_first_steps_do_not_depend_on_where_the_run_ends(tmp_path):
    run(tmp_path / "short", max_steps=6)
    run(tmp_path / "long", max_steps=9)
    assert untimed(rows(tmp_path / "short")) == untimed(rows(tmp_path / "long")[:2])


def test_seed_names_the_run(tmp_path):
    one, same, other = (run(tmp_path / name, seed=seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert untimed(one) == untimed(same)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    assert one["train_loss"] != other["train_loss"]


@pytest.mark.parametrize("method", METHODS)
def test_resumed_run_ends_as_the_uninterrupted_one(tmp_path, method):
    takes_k = "k" in load_registry().find("method", method).entry.options.model_fields
    shown = "overlap" if method in load_registry().names("estimator") else "variance"
    changes = {"method": method, "k": 3 if takes_k else None, "diagnostics": [shown], "diagnostics_every": 2}
    if method == "local-gradient":  # diagnostics are of one loss for the whole model
        changes |= {"local_losses": 1, "diagnostics": []}
    whole = run(tmp_path / "whole", **changes)
    # Inside an epoch; and before the first checkpoint, at an epoch's end before its evaluation, in the last step.
    for step in (4, 1, 6, 12) if method in ("backprop", "wperp") else (4,):
        path = tmp_path / f"stopped-{step}"
        with pytest.raises(KeyboardInterrupt):
            run(path, Stopper(step), **changes)
        assert not (path / "result.json").exists()
        assert untimed(go_on(path)) == untimed(whole)
        assert untimed(rows(path)) == untimed(rows(tmp_path / "whole"))
        assert read_rows(path / "diagnostics.jsonl") == read_rows(tmp_path / "whole" / "diagnostics.jsonl")
        assert weights(path) == weights(tmp_path / "whole")


@pytest.mark.parametrize("method", ["backprop", "weight-perturbation", "activation-perturbation"])
def test_layers_that_draw_are_resumed_to_the_bit_and_keep_their_modes(tmp_path, method):
    registry = registry_with(fg_models=[Entry("layers", "networks:layers_that_draw", "Dropout and BatchNorm.")])
    recipe = resolve(None, TINY | {"width": None, "depth": None, "model": "layers", "method": method}, registry)
    other_seed = recipe.model_copy(update={"seed": 1})
    training = begin(recipe, tmp_path / "whole", registry, Listener())
    whole = training.run()
    assert [layer.training for layer in training.assembly.model.children()] == [True, False, True, True, True, True]
    torch.rand(5)  # whatever else a process draws
    with pytest.raises(KeyboardInterrupt):
        begin(recipe, tmp_path / "stopped", registry, Stopper(7)).run()
    torch.rand(5)
    assert untimed(resume(tmp_path / "stopped", None, {}, registry, Listener()).run()) == untimed(whole)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")
    first, second = (next(assemble(r, registry).model.parameters()) for r in (recipe, other_seed))
    assert not torch.equal(first, second)


def test_resume_twice(tmp_path):
    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Stopper(4))
    with pytest.raises(KeyboardInterrupt):
        go_on(tmp_path / "run", Stopper(8))
    assert untimed(go_on(tmp_path / "run")) == untimed(whole)


def test_checkpoint_inside_an_epoch_is_resumed_there(tmp_path):
    whole = run(tmp_path / "whole")
    training = make(tmp_path / "run", Stopper(5))
    with pytest.raises(KeyboardInterrupt):
        training.run()
    training.store.save(capture(training.assembly, 5, training.progress))
    listener = Listener()
    assert untimed(go_on(tmp_path / "run", listener)) == untimed(whole)
    assert len(listener.losses) == 12 - 5


def test_stopped_between_checkpoint_and_result(tmp_path):
    whole = run(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    listener = Listener()
    resumed = go_on(tmp_path / "run", listener)
    assert listener.losses == []
    assert untimed(resumed) == untimed(whole)
    assert resumed["wall_s"] >= rows(tmp_path / "run")[-1]["wall_s"]


def test_stopped_between_row_and_checkpoint(tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    training = make(tmp_path / "run")

    def killed(row):
        if row.step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(training.reporter, "evaluated", killed)
    with pytest.raises(KeyboardInterrupt):
        training.run()
    assert [row["step"] for row in rows(tmp_path / "run")] == [3, 6]
    assert untimed(go_on(tmp_path / "run")) == untimed(whole)
    assert untimed(rows(tmp_path / "run")) == untimed(rows(tmp_path / "whole"))


def test_only_estimator_and_optimiser_are_timed(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr("fgcli.training.loop._now", lambda device: next(clock))
    training = make(tmp_path / "run", max_steps=2)
    training.run()
    # Four readings a step: around the estimator, and around the optimiser; each pair is one tick apart.
    assert training.progress.times.cold == [2e3, 2e3]


def test_estimators_run_without_recording_a_graph(tmp_path):
    training = make(tmp_path / "run", max_steps=1)
    seen, estimate = [], training.assembly.estimator.estimate

    class Watched:
        def estimate(self, *arguments):
            seen.append(torch.is_grad_enabled())
            return estimate(*arguments)

        def state(self):
            return {}

    training.assembly = replace(training.assembly, estimator=Watched())
    training.run()
    assert seen == [False]


def test_checkpoints_of_chosen_epochs_are_written_and_kept(tmp_path):
    plain = run(tmp_path / "plain", epochs=6, eval_every=2)
    kept = run(tmp_path / "kept", epochs=6, eval_every=2, keep_checkpoints=[1, 2, 50])
    steps = [CheckpointStore(tmp_path / name / "checkpoints", "").steps() for name in ("plain", "kept")]
    assert steps == [[12, 18], [3, 6, 12, 18]]
    assert untimed(rows(tmp_path / "kept")) == untimed(rows(tmp_path / "plain"))
    assert kept["train_loss"] == plain["train_loss"]


def test_the_newest_and_the_best_are_kept(tmp_path, monkeypatch):
    losses = iter([2.0, 1.0, 4.0, 3.0, 5.0, 6.0])

    def measured(assembly, step):
        loss = next(losses)
        return Metrics(train_loss=loss, train_accuracy=0.5, test_loss=-loss, test_accuracy=0.5)

    monkeypatch.setattr("fgcli.training.loop.evaluate", measured)
    path = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(path, Stopper(10), epochs=6, keep_last=1)
    assert CheckpointStore(path / "checkpoints", "").steps() == [6, 9]
    (path / "metrics.jsonl").unlink()  # the best is known all the same
    losses = iter([4.0, 3.0, 5.0, 6.0])
    assert go_on(path)["best_step"] == 6
    assert CheckpointStore(path / "checkpoints", "").steps() == [6, 18]
