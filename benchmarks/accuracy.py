"""Accuracies after 300 epochs: every method of a table, widths and seeds, each by `fgcli train`; one JSON row a run.

    python benchmarks/accuracy.py run --methods backprop,wt --widths 64,128 --jobs 2
    python benchmarks/accuracy.py table

`run` skips the rows it already has. Rows are kept in benchmarks/results/accuracy.jsonl. A method may carry options:
`wperp:solver=shared:k=25`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "accuracy.jsonl"

KEPT = ("train_accuracy", "test_accuracy", "train_loss", "test_loss", "wall_s", "step_ms_median", "device", "threads")

PAPER_TRAIN = {  # Tab. 3 of the paper: training accuracy by width, one run each
    "weight-perturbation": {64: 0.121, 128: 0.124, 256: 0.179, 512: 0.177},
    "activation-perturbation": {64: 0.201, 128: 0.275, 256: 0.309, 512: 0.319},
    "wt": {64: 0.268, 128: 0.312, 256: 0.376, 512: 0.494},
    "wperp": {64: 0.268, 128: 0.323, 256: 0.434, 512: 0.581},
    "backprop": {64: 0.536, 128: 0.709, 256: 0.887, 512: 1.000},
}


def rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def train(method: str, width: int, seed: int) -> dict[str, Any]:
    name, *options = method.split(":")
    with tempfile.TemporaryDirectory() as folder:
        command = ["fg", "train", "--method", name, "--width", str(width), "--seed", str(seed), "--threads", "1"]
        for option in options:
            key, _, value = option.partition("=")
            command += ["--k", value] if key == "k" else ["--option", option]
        command += ["--eval-every", "300", "--json", "--quiet", "--out", f"{folder}/run"]
        beside = str(Path(sys.executable).with_name("fg"))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run([beside, *command[1:]], capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    command = command[: command.index("--out")]
    row = {"method": method, "width": width, "seed": seed, "command": " ".join(command)}
    return row | {key: result[key] for key in KEPT}


def run(arguments: argparse.Namespace) -> None:
    have = {(row["method"], row["width"], row["seed"]) for row in rows()}
    wanted = [
        (method, width, seed)
        for seed in arguments.seeds
        for width in arguments.widths
        for method in arguments.methods
        if (method, width, seed) not in have
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for row in pool.map(lambda one: train(*one), wanted):
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print(row["method"], row["width"], row["seed"], row["train_accuracy"], row["test_accuracy"], flush=True)


def table() -> None:
    """Mean ± standard deviation over seeds, beside the paper's training accuracy, as Markdown."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows():
        groups.setdefault((row["method"], row["width"]), []).append(row)
    print("| method | width | seeds | train | test | paper, train | step, ms |\n|---|---|---|---|---|---|---|")
    for (method, width), group in sorted(groups.items()):
        paper = PAPER_TRAIN.get(method.partition(":")[0], {}).get(width) if "k=" not in method else None
        cells = [method, str(width), str(len(group)), _spread(group, "train_accuracy"), _spread(group, "test_accuracy")]
        step = statistics.median(row["step_ms_median"] for row in group)
        print(f"| {' | '.join(cells)} | {'' if paper is None else f'{paper:.3f}'} | {step:.1f} |")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _spread(group: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in group]
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.3f} ± {spread:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runner = commands.add_parser("run")
    runner.add_argument("--methods", type=lambda text: text.split(","), required=True)
    runner.add_argument("--widths", type=_numbers, required=True)
    runner.add_argument("--seeds", type=_numbers, default=[0, 1, 2, 3, 4])
    runner.add_argument("--jobs", type=int, default=1)
    commands.add_parser("table")
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments)
    else:
        table()


if __name__ == "__main__":
    sys.exit(main())
