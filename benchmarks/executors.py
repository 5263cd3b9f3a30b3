"""What an executor adds to a trial, and sweeps of many trials: the numbers of scale.md.

python benchmarks/executors.py overhead local     # 50 trials of one step, one at a time
python benchmarks/executors.py overhead slurm     # the same on the SLURM, or the Ray, that is there
python benchmarks/executors.py many local         # 500 trials that train nothing, to the end
python benchmarks/executors.py many slurm
python benchmarks/executors.py planned            # 10,000 finished runs, made up: --dry-run, report, memory
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from fgcli.bench.executor import Attaches, Trial
from fgcli.extend.registry import load_registry
from fgcli.files import to_json
from fgcli.recipe import dump
from fgcli.runs.results import Metrics, Result
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import SweepDirectory
from fgcli.sweep.plan import plan
from fgcli.sweep.read import read_sweep, resolve_trials
from fgcli.sweep.schema import dump_sweep

ONE_STEP = """\
base: {dataset: digits, width: 16, depth: 2, max_steps: 1, device: cpu, threads: 1}
grid: {methods: [backprop], seed: [%s]}
"""
MANY = """\
base: {depth: 2, epochs: 4, eval_every: 1, device: cpu, threads: 1}
grid: {methods: [backprop, wt], width: [8, 16, 24, 32, 40], seed: [%s]}
views:
  - {kind: table, title: Test accuracy, value: test_accuracy, columns: width}
  - {kind: figure, title: By width, x: width, y: test_accuracy}
"""
FINISHES = "import os, sys; os.makedirs(sys.argv[1]); open(sys.argv[1] + '/result.json', 'w').write('{}')"


def fgcli(*words: str) -> tuple[float, float, float]:
    """Seconds of a command, those of the processor, and MiB at its peak."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "fgcli", *words], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"fgcli {' '.join(words)} failed"
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def said(took: tuple[float, float, float]) -> str:
    """The same in words."""
    return f"{took[0]:.1f} s, {took[1]:.1f} s of the processor, {took[2]:.0f} MiB"


def overhead(name: str, count: int, options: list[str]) -> None:
    """From one result to the next, one trial at a time."""
    Path("sweep.yaml").write_text(ONE_STEP % ", ".join(map(str, range(count))))
    flags = [word for option in options for word in ("--executor-option", option)]
    fgcli("bench", "sweep.yaml", "--out", "out", "--executor", name, "--jobs", "1", *flags)
    ends = sorted(file.stat().st_mtime for file in Path("out/trials").glob("*/result.json"))
    between = [after - before for before, after in itertools.pairwise(ends)]
    low, middle, high = statistics.quantiles(between, n=4)
    print(f"{name}: {len(ends)} trials of one step, {middle:.2f} s each (quartiles {low:.2f} to {high:.2f})")


def many(name: str, count: int, options: dict[str, Any]) -> None:
    """Trials that write a result at once: what is measured is the executor."""
    found = load_registry().find("executor", name)
    executor = found.load()(found.entry.options.model_validate(options))
    for folder in ("trials", "logs"):
        Path(folder).mkdir()
    trials = [
        Trial(f"t{number}", (sys.executable, "-ISc", FINISHES, f"trials/t{number}"), Path(f"trials/t{number}"),
              Path(f"logs/t{number}.log"), 1)
        for number in range(count)
    ]  # fmt: skip
    began = time.perf_counter()
    outcomes = executor.run(trials)  # which starts nothing yet
    if isinstance(executor, Attaches):
        executor.attach(SweepDirectory(Path()))
    codes = [outcome.exit_code for outcome in outcomes]
    took = time.perf_counter() - began
    print(f"{name}: {len(codes)} trials that train nothing in {took:.0f} s, {sum(map(bool, codes))} failed")


def planned(count: int) -> None:
    """Finished runs as fg writes them; the numbers in them are made up."""
    Path("sweep.yaml").write_text(MANY % ", ".join(map(str, range(count // 10))))
    sweep, source = read_sweep("sweep.yaml")
    directory = SweepDirectory(Path("out"))
    directory.trials.mkdir(parents=True)
    directory.sweep_file.write_text(dump_sweep(sweep))
    recipes = resolve_trials(sweep, source, load_registry())
    missing = fgcli("bench", "sweep.yaml", "--out", "none", "--limit", "0")
    print(f"{count} planned trials, none begun: {said(missing)}")
    texts: dict[object, str] = {}  # writing YAML takes longer than all else here
    for trial in plan(sweep):
        recipe = recipes[trial.name]
        if trial.group not in texts:
            texts[trial.group] = dump(recipe.model_copy(update={"seed": 0}))
        accuracy = 0.3 + 0.001 * (recipe.seed % 7)
        metrics = Metrics(train_accuracy=accuracy, test_accuracy=accuracy, train_loss=1.0, test_loss=1.0)
        of_run = {"wall_s": 1.0, "step_ms_median": 1.0, "peak_memory_bytes": 10**8}
        result = Result(recipe=recipe.model_dump(mode="json"), steps=32, metrics=metrics, **of_run)
        run = RunDirectory(directory.trials / trial.name)
        run.path.mkdir()
        run.recipe_file.write_text(texts[trial.group].replace("\nseed: 0\n", f"\nseed: {recipe.seed}\n"))
        run.environment_file.write_text(to_json({"device": "cpu", "threads": 1}))
        row = {"step": 32, "epoch": 4.0, "train_loss": 1.0, "test_loss": 1.0, "test_accuracy": accuracy, "wall_s": 1.0}
        run.metrics_file.write_text(to_json(row) + "\n")
        run.result_file.write_text(to_json(result.as_json()))
    for words in (["bench", "sweep.yaml", "--out", "out", "--dry-run"], ["report", "out", "--html", "page.html"]):
        took = fgcli(*words)
        print(
            f"{count} finished runs, {words[0]}: {took[0]:.1f} s, {took[1]:.1f} s of the processor, {took[2]:.0f} MiB"
        )


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "many", "planned"])
    parser.add_argument("executor", nargs="?", default="local")
    parser.add_argument("--trials", type=int)
    parser.add_argument("--option", action="append", default=[], help="of the executor, KEY=JSON; repeatable")
    given = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        if given.what == "overhead":
            overhead(given.executor, given.trials or 50, given.option)
        elif given.what == "many":
            options = {key: json.loads(value) for key, _, value in (one.partition("=") for one in given.option)}
            many(given.executor, given.trials or 500, options)
        else:
            planned(given.trials or 10_000)


if __name__ == "__main__":
    main()
