"""Step times, memory and operations of recipes, in a process of its own.

    python -m fgcli.bench.measure MODE OUT RECIPE...

turn     the recipes' steps in turn, in blocks, so that what disturbs the machine disturbs all alike
memory   of one recipe: the process must be fresh
check    what would stop the recipes' runs at their start, each fault once: the rows are these
probe    what a run of each recipe will take: a few steps, an evaluation, a record of the diagnostics

OUT is a JSON list, a row a recipe.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from fgcli.bench.flops import count_flops
from fgcli.devices import describe, peak_memory_bytes, synchronize
from fgcli.extend.registry import Registry, load_registry
from fgcli.files import to_json, write_atomically
from fgcli.gradient.estimator import Batch
from fgcli.recipe import read_recipe, resolve
from fgcli.recipe_keys import Recipe
from fgcli.runs.record import as_json
from fgcli.runs.results import MetricsRow
from fgcli.runs.timing import StepMemory, StepTiming
from fgcli.training.assembly import assemble, settle
from fgcli.training.dry_run import findings
from fgcli.training.loop import Training
from fgcli.training.reporter import Reporter
from fgcli.training.start import begin

BLOCK_S = 0.2
"""Of one recipe, before it is another's turn."""
BLOCKS = (5, 20)
"""At least, even where a step takes long, and at most."""
ENOUGH_S = 3.0
"""Of one recipe, after the least number of blocks."""
WARM_UP = (3, 30)
"""Steps before the first block, at least, and at most."""
WARM_UP_S = 1.0
FLOPS_STEPS = 50
"""Counted and averaged, as a method may do more in some steps than in others."""
FLOPS_S = 5.0
PROBE_STEPS = 8


class Stepper:
    """One step after the other of a recipe, on the first batch of its data, as the training loop makes them."""

    def __init__(self, recipe: Recipe, registry: Registry) -> None:
        self.assembly = assembly = assemble(settle(recipe, registry), registry)
        size = recipe.batch_size
        self._batch = Batch(assembly.dataset.train_inputs[:size], assembly.dataset.train_targets[:size])
        self._parameters = dict(assembly.model.named_parameters())
        self._step = 0

    @torch.no_grad()
    def __call__(self) -> float:
        """Seconds of one step."""
        assembly = self.assembly
        synchronize(assembly.device)
        start = time.perf_counter()
        rng = assembly.streams.at(self._step)
        estimate = assembly.estimator.estimate(assembly.model, assembly.objective.loss, self._batch, rng)
        for name, parameter in self._parameters.items():
            parameter.grad = estimate.gradients.get(name)
        assembly.optimizer.step()
        synchronize(assembly.device)
        self._step += 1
        return time.perf_counter() - start


def _warm_up(stepper: Stepper) -> list[float]:
    """Seconds of the first steps, of which feedback makes more than of the later ones."""
    times: list[float] = []
    while len(times) < WARM_UP[0] or (len(times) < WARM_UP[1] and sum(times) < WARM_UP_S):
        times.append(stepper())
    return times


def measure_in_turn(recipes: Sequence[Recipe], registry: Registry) -> list[StepTiming]:
    """Medians, quartiles and means of the step times, in ms, and the mean number of operations of a step."""
    steppers = [Stepper(recipe, registry) for recipe in recipes]
    typical = [min(_warm_up(stepper)) for stepper in steppers]
    times: list[list[float]] = [[] for _ in steppers]
    for block in range(BLOCKS[1]):
        if block >= BLOCKS[0] and min(map(sum, times)) > ENOUGH_S:
            break
        for stepper, one, expected in zip(steppers, times, typical, strict=True):
            one.extend(stepper() for _ in range(max(1, round(BLOCK_S / expected))))
    rows: list[StepTiming] = []
    for stepper, one in zip(steppers, times, strict=True):
        lower, median, upper = (1e3 * value for value in statistics.quantiles(one, n=4, method="inclusive"))
        steps = max(10, min(FLOPS_STEPS, round(FLOPS_S / (median / 1e3))))
        flops = count_flops(lambda stepper=stepper, steps=steps: [stepper() for _ in range(steps)]) / steps
        rows.append(
            StepTiming(
                timed_step_ms=median,
                timed_step_ms_quartiles=(lower, upper),
                timed_step_ms_mean=1e3 * statistics.fmean(one),
                timed_samples=len(one),
                step_flops=flops,
                device=str(stepper.assembly.device),
                device_name=describe(stepper.assembly.device),
                threads=torch.get_num_threads(),
                torch=torch.__version__,
            )
        )
    return rows


def measure_memory(recipe: Recipe, registry: Registry) -> StepMemory:
    """Bytes: the process's peak (of tensors, on a CUDA device), and what one step holds beyond what it found."""
    stepper = Stepper(recipe, registry)
    for _ in range(10):
        stepper()
    process = peak_memory_bytes(stepper.assembly.device)
    return StepMemory(step_peak_bytes=peak_of(stepper, stepper.assembly.device), process_peak_bytes=process)


def peak_of(step: Callable[[], object], device: torch.device) -> int:
    """Bytes of tensors that one call holds at its peak beyond what it found allocated."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()  # else garbage of before that is freed during the call would count against it
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    raw: Any = profiler.profiler  # the only place where single allocations are to be had
    ahead, found = list(raw.kineto_results.experimental_event_tree()), []
    while ahead:
        event = ahead.pop()
        ahead += event.children
        if event.name == "[memory]":
            found.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    sizes: dict[int, int] = {}
    held = peak = 0
    for _, address, size in sorted(found, key=lambda one: one[0]):
        # What is freed counts where it was allocated meanwhile: of older memory the profiler tells what had been there.
        held += size if size > 0 else -sizes.pop(address, 0)
        if size > 0:
            sizes[address] = size
        peak = max(peak, held)
    return peak


class _Clock(Reporter):
    """When each part of a short run ended."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.begun = self.evaluated_at = 0.0

    def started(self, plan: Any) -> None:
        self.begun = time.perf_counter()

    def stepped(self, step: int, loss: float) -> None:
        self.steps.append(time.perf_counter())

    def evaluated(self, row: MetricsRow) -> None:
        self.evaluated_at = time.perf_counter()


def probe(recipe: Recipe, registry: Registry) -> dict[str, float]:
    """Seconds that a run of the recipe will take, from a run of a few steps; without the start of its process."""
    clock = _Clock()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        short = recipe.model_copy(update={"max_steps": PROBE_STEPS, "keep_checkpoints": []})
        training = begin(short, Path(folder) / "run", registry, clock)
        assembled = time.perf_counter() - started
        training.run()
    between = [later - earlier for earlier, later in zip(clock.steps, clock.steps[1:], strict=False)]
    step = statistics.median(between or [clock.steps[0] - clock.begun])
    evaluation = clock.evaluated_at - clock.steps[-1]
    record = max(0.0, clock.steps[0] - clock.begun - step) if recipe.diagnostics else 0.0
    steps, evaluations, records = _counts(recipe, training)
    return {"seconds": assembled + steps * step + evaluations * evaluation + records * record}


def _counts(recipe: Recipe, training: Training) -> tuple[int, int, int]:
    """Steps, evaluations and records of the whole run."""
    steps = recipe.epochs * training.steps_per_epoch
    steps = min(steps, recipe.max_steps or steps)
    epochs = steps / training.steps_per_epoch
    records = epochs / recipe.diagnostics_every + 1 if recipe.diagnostics else 0
    return steps, int(epochs / recipe.eval_every) + 1, int(records)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["check", "turn", "memory", "probe"])
    parser.add_argument("out", type=Path)
    parser.add_argument("recipes", type=Path, nargs="+")
    parser.add_argument("--plugin", type=Path, action="append", default=[])
    arguments = parser.parse_args()
    registry = load_registry(tuple(arguments.plugin))
    recipes = [resolve(read_recipe(path), {}, registry) for path in arguments.recipes]
    if arguments.mode == "check":
        rows = findings({path.stem: recipe for path, recipe in zip(arguments.recipes, recipes, strict=True)}, registry)
    elif arguments.mode == "turn":
        rows = [as_json(row) for row in measure_in_turn(recipes, registry)]
    elif arguments.mode == "memory":
        rows = [as_json(measure_memory(recipe, registry)) for recipe in recipes]
    else:
        rows = [probe(recipe, registry) for recipe in recipes]
    write_atomically(arguments.out, to_json(rows) + "\n")


if __name__ == "__main__":
    main()
