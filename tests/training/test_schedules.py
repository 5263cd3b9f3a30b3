"""Learning-rate schedules: their values at each step, on a resumed run to the bit; and clipping of the gradient."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import FLAGS, Stopper, fg, go_on, rows, run, tiny_recipe, untimed, weights

from fgcli.extend.registry import load_registry
from fgcli.training.assembly import assemble, steps_of
from fgcli.training.schedules import advance

STEPS, PER_EPOCH, LR = 12, 3, 0.01

SCHEDULES: dict[str, tuple[dict[str, Any], Any]] = {
    "constant": ({}, lambda t: LR),
    "cosine": ({"min_lr": 0.001}, lambda t: 0.001 + (LR - 0.001) * (1 + math.cos(math.pi * t / STEPS)) / 2),
    "step": ({"step_size": 2, "gamma": 0.5}, lambda t: LR * 0.5 ** (t // (2 * PER_EPOCH))),
    "linear-warmup": ({"steps": 5}, lambda t: LR * min(1, (t + 1) / 5)),
    "torch.optim.lr_scheduler:ExponentialLR": ({"gamma": 0.9}, lambda t: LR * 0.9**t),
}


def changes(name: str) -> dict[str, Any]:
    return {"lr_schedule": name, "lr_schedule_options": SCHEDULES[name][0]}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_of_every_update(name: str) -> None:
    assembly = assemble(tiny_recipe(**changes(name)), load_registry())
    assert steps_of(assembly.recipe, assembly.dataset) == (PER_EPOCH, STEPS)
    for t in range(STEPS):
        assert assembly.optimizer.param_groups[0]["lr"] == pytest.approx(SCHEDULES[name][1](t), rel=1e-6)
        advance(assembly.schedule)


def test_a_constant_one_changes_no_bit() -> None:
    assembly = assemble(tiny_recipe(), load_registry())
    for _ in range(3):
        assert assembly.optimizer.param_groups[0]["lr"] == LR
        advance(assembly.schedule)


def test_the_last_step_of_a_run_that_is_cut_short_ends_the_cosine() -> None:
    assembly = assemble(tiny_recipe(lr_schedule="cosine", max_steps=5), load_registry())
    advance(assembly.schedule, 5)
    assert assembly.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_run_goes_on_to_the_bit(workplace: Path, name: str, optimizer: str) -> None:
    given = changes(name) | {"optimizer": optimizer, "clip_norm": 0.05, "eval_every": 1}
    whole = run(Path("whole"), **given)
    with pytest.raises(KeyboardInterrupt):
        run(Path("stopped"), Stopper(8), **given)
    assert untimed(go_on(Path("stopped"))) == untimed(whole)
    assert untimed(rows(Path("stopped"))) == untimed(rows(Path("whole")))
    assert weights(Path("stopped")) == weights(Path("whole"))


def test_a_damaged_newest_checkpoint_leaves_the_schedule_where_the_older_one_is(workplace: Path) -> None:
    given = changes("cosine")
    whole = run(Path("whole"), **given)
    with pytest.raises(KeyboardInterrupt):
        run(Path("stopped"), Stopper(8), **given)
    newest = max(Path("stopped/checkpoints").glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"x")
    assert untimed(go_on(Path("stopped"))) == untimed(whole)


def test_a_left_out_first_update_counts_as_a_step_without_a_warning(workplace: Path) -> None:
    given = {"method": "backprop", "optimizer": "sgd", "lr": 1e30, "on_nonfinite": "skip", "eval_every": 4}
    assembly = assemble(tiny_recipe(**changes("step"), **given), load_registry())
    advance(assembly.schedule, 7)
    assert assembly.optimizer.param_groups[0]["lr"] == pytest.approx(0.5e30)


def test_a_schedule_of_ones_own_with_what_it_asks_for(workplace: Path) -> None:
    Path("decay.py").write_text(
        "from torch.optim.lr_scheduler import LambdaLR\n\n\n"
        "def linear(optimizer, total_steps, least: float = 0.5):\n"
        "    return LambdaLR(optimizer, lambda t: max(least, 1 - t / total_steps))\n"
    )
    flags = ["--lr-schedule", "decay:linear", "--lr-schedule-option", "least=0.25", "--json", "--out", "run"]
    done = fg("train", *FLAGS, *flags)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["lr_schedule_options"] == {"least": 0.25}
    state = json.loads(max(Path("run/checkpoints").glob("*.json")).read_text())["data"]["optimizer"]
    assert state["param_groups"][0]["lr"] == pytest.approx(0.25 * LR)


def test_the_gradient_is_clipped_to_the_norm(workplace: Path) -> None:
    """By plain SGD at learning rate 1, the update is the gradient."""
    norms = {}
    for clip in (None, 1e-3, 1e3):
        given = {"clip_norm": clip, "method": "backprop", "optimizer": "sgd", "lr": 1.0, "max_steps": 1}
        before = assemble(tiny_recipe(**given), load_registry()).model.state_dict()
        run(Path(f"run-{clip}"), **given)
        from safetensors.torch import load_file

        after = load_file(max(Path(f"run-{clip}/checkpoints").glob("*.safetensors")))
        norms[clip] = torch.cat([(after[f"model.{key}"] - one).flatten() for key, one in before.items()]).norm().item()
    assert norms[1e-3] == pytest.approx(1e-3, rel=1e-2)
    assert norms[None] == pytest.approx(norms[1e3])
    assert norms[None] > 1e-2
