"""What a step takes beside backpropagation's: said once, where that makes a run longer by minutes, and sooner where not
even the first step ends."""

from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from threading import Timer
from time import perf_counter

import torch

from fgcli.devices import synchronize
from fgcli.gradient.buffers import BufferState
from fgcli.gradient.estimator import Batch
from fgcli.recipe_keys import Recipe
from fgcli.training.assembly import Assembly
from fgcli.training.reporter import Reporter

AFTER = 10
"""Steps of a process, after which it is known how long one takes."""
DEAR, LONGER_S = 5, 60
"""Times of backpropagation's step, and seconds that a run takes more."""
FIRST_S = 10
"""Seconds of the first step, after which it is said what it is at."""


@contextmanager
def first_step(recipe: Recipe, reporter: Reporter) -> Iterator[None]:
    """Within it, the first step of a process: a line where it takes long, as nothing else is shown until it is done."""
    k = f" with k {recipe.k}" if recipe.k is not None else ""
    others = "" if recipe.method.startswith("backprop") else f", {_cheaper(recipe)}"
    line = (
        f"the first step, {recipe.method}{k} of {recipe.batch_size} samples, is not done after {FIRST_S} s; "
        f"cheaper: a smaller --batch-size{others}"
    )
    timer = Timer(FIRST_S, reporter.warned, [line])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cheaper(recipe: Recipe) -> str:
    cheaper = ["fewer --tangents"] if (recipe.tangents or 1) > 1 else []
    cheaper += ["--k 10"] if recipe.k == "rank" else []
    cheaper += ["activation-perturbation", "--feedback local"] if recipe.feedback in (None, "none") else []
    return ", ".join([*cheaper, "what `fgcli check-model` finds for this model"])


def cost_line(assembly: Assembly, batch: Batch, step_ms: float, steps_left: int) -> str | None:
    """How much longer the run takes than by backpropagation, and what is cheaper; None where it is not much.

    Times three passes forwards and backwards, and leaves the model, its buffers and all generators as they are. A run
    that saves memory is not measured: backpropagation may not fit.
    """
    recipe = assembly.recipe
    if step_ms * steps_left < 1e3 * LONGER_S or recipe.memory == "replay" or recipe.micro_batch is not None:
        return None
    try:
        exact_ms = _backpropagation_ms(assembly, batch)
    except Exception:  # a loss without a derivative, or an operation that has none
        return None
    if step_ms < DEAR * exact_ms or (step_ms - exact_ms) * steps_left < 1e3 * LONGER_S:
        return None
    return (
        f"a step takes {step_ms:.3g} ms, {step_ms / exact_ms:.0f} times backpropagation's: about "
        f"{_duration(step_ms * steps_left)} to the end in place of {_duration(exact_ms * steps_left)}; cheaper: "
        f"{_cheaper(recipe)}"
    )


def _duration(ms: float) -> str:
    return f"{ms / 6e4:.0f} min" if ms >= 12e4 else f"{ms / 1e3:.0f} s"


def _backpropagation_ms(assembly: Assembly, batch: Batch) -> float:
    model, objective = assembly.model, assembly.objective
    parameters = [one for one in model.parameters() if one.requires_grad]
    buffers, taken = BufferState(model), []
    for number in range(3):
        with assembly.streams.for_layers("cost", number, assembly.device), torch.enable_grad():
            synchronize(assembly.device)
            start = perf_counter()
            losses = objective.loss(model(batch.inputs), batch.targets)
            torch.autograd.grad(losses.mean(), parameters, allow_unused=True)
            synchronize(assembly.device)
            taken.append(1e3 * (perf_counter() - start))
        buffers.restore()
    return median(taken)
