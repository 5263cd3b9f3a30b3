"""The lines of a finished field sweep at equal memory: python benchmarks/equal_memory.py runs/field-mlp --mib 1.8

Each line takes the largest micro-batch that stays within `--mib`, and as many steps as it makes so in the time that
backpropagation, within the same limit, takes for all of its own. The accuracy is that of its run after so many steps.
That is right where micro-batches leave the estimate as it is, or its law: exact gradients, fixed feedback, and noise of
each sample's own. It is not for what draws one noise a batch (weight perturbation, two-point estimates), which is
better in micro-batches than shown, and for learned feedback, which learns after each. Where `samples at once` is the
whole batch, nothing is said of this.

The sizes are the batch's, halved; what a step's tensors hold is the most beyond the start, by the allocator, in a
process of its own. A line that is above the limit with a single sample at once has no row, nor has one that would be
above it with none, by a line through what a few samples and twice as many hold. Then all lines are timed in turn, in
one process, one thread: of 22 lines of the GPT that takes eight minutes. `--lines` takes some alone. Run it with
nothing else at work.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from os import cpu_count
from pathlib import Path

import numpy as np

from fgcli.bench.measuring import measure
from fgcli.bench.run import Job
from fgcli.extend.registry import Registry, load_registry
from fgcli.recipe import read_recipe, resolve
from fgcli.recipe_keys import Recipe
from fgcli.runs.run_directory import RunDirectory, read_run
from fgcli.runs.sweep_directory import SweepDirectory

MIB = 2**20
FEW = 8


def job_of(run: RunDirectory, recipe: Recipe) -> Job:
    return Job(run.path.name, recipe, run.recipe_file, run, run.path / "log")


def within(run: RunDirectory, registry: Registry, limit: float) -> tuple[Job, float] | None:
    """The line with its largest micro-batch, and the MiB of a step; None where none is small enough."""
    recipe = resolve(read_recipe(run.recipe_file), {}, registry)

    def job(size: int) -> Job:
        return job_of(run, recipe.model_copy(update={"micro_batch": size}))

    @cache
    def held(size: int) -> float:
        return measure("memory", [job(size)])[0]["step_peak_bytes"] / MIB

    size = recipe.batch_size
    while size and held(size) > limit:
        if size <= FEW and 2 * held(size) - held(2 * size) > limit:
            return None
        size //= 2
    return (job(size), held(size)) if size else None


def at(runs: list[RunDirectory], steps: float, key: str) -> float:
    """Mean over the runs of a metric at so many steps, in proportion between two evaluations; nan before the first."""
    found: list[float] = []
    for run in runs:
        rows = run.read_metrics()
        found.append(
            float(
                np.interp(steps, [row.step for row in rows], [getattr(row.metrics, key) for row in rows], left=np.nan)
            )
        )
    return sum(found) / len(found)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("sweep", type=Path)
    arguments.add_argument("--mib", type=float, required=True)
    arguments.add_argument("--metric", default="test_accuracy")
    arguments.add_argument("--baseline", default="backprop")
    arguments.add_argument("--lines", nargs="+", help="by the names of their trials, without the seed")
    given = arguments.parse_args()
    if not SweepDirectory(given.sweep).trials.is_dir():
        arguments.error(f"{given.sweep} is not the folder of a sweep that has been run")
    lines: dict[str, list[RunDirectory]] = {}
    for folder in sorted(SweepDirectory(given.sweep).trials.iterdir()):
        name = folder.name.rpartition("-seed")[0]
        if given.lines is None or name in (given.baseline, *given.lines):
            lines.setdefault(name, []).append(read_run(folder))
    registry = load_registry()
    with ThreadPoolExecutor(cpu_count()) as pool:
        found = pool.map(lambda runs: within(runs[0], registry, given.mib), lines.values())
        chosen = dict(zip(lines, found, strict=True))
    kept = {name: one for name, one in chosen.items() if one is not None}
    if given.baseline not in kept:
        raise SystemExit(f"{given.baseline} does not come within {given.mib} MiB: give more")
    rows = measure("turn", [job for job, _ in kept.values()])
    ms = {name: row["timed_step_ms"] for name, row in zip(kept, rows, strict=True)}
    whole = list(lines[given.baseline][0].read_metrics())[-1].step
    seconds = whole * ms[given.baseline] / 1000
    print(f"{given.metric} in {seconds:.2f} s, at most {given.mib} MiB a step")
    print(
        "| line | samples at once | MiB | step, ms | steps made | at equal memory and time |\n|---|---|---|---|---|---|"
    )
    table = []
    for name, (job, held) in kept.items():
        steps = min(1000 * seconds / ms[name], lines[name][0].read_metrics()[-1].step)
        value = at(lines[name], steps, given.metric)
        size = job.recipe.micro_batch
        table.append((value, f"| {name} | {size} | {held:.1f} | {ms[name]:.1f} | {int(steps)} | {value:.3f} |"))
    ascending = given.metric.endswith("loss")
    for _, row in sorted(table, key=lambda one: (np.isnan(one[0]), one[0] if ascending else -one[0])):
        print(row)
    print("above the limit with one sample at once:", ", ".join(n for n in lines if n not in kept) or "none")


if __name__ == "__main__":
    main()
