"""Time of one training step (estimator and optimiser), measured in turn in one run, as ratios of medians.

    python benchmarks/step_time.py --widths 128,512 --methods backprop,weight-perturbation,activation-perturbation,wt
    python benchmarks/step_time.py --widths 128,512,2048 --methods wt,wperp:solver=shared,wperp,wperp-ns --memory

Names that begin with `hand:` are the loops of hand_written.py. Three hidden layers, batch 512, one thread, AdamW.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import hand_written
import torch
import torch.nn.functional as F
from torch import Tensor

from fgcli.bench.measure import peak_of
from fgcli.extend.registry import load_registry
from fgcli.gradient.estimator import Batch, Estimator
from fgcli.gradient.randomness import Streams
from fgcli.methods.make import make_estimator
from fgcli.models.mlp import mlp
from fgcli.models.options import MLPOptions
from fgcli.recipe import parse_assignments

BATCH, INPUTS, CLASSES = 512, 40, 10


def estimator(name: str) -> Estimator:
    """From `method:option=value:option=value`."""
    method, *assignments = name.split(":")
    kind, entry = load_registry().method(method)
    options = entry.options(**parse_assignments(assignments))
    found = entry.load()(options)
    return found if kind == "estimator" else make_estimator(found, options, load_registry())


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


def stepper(name: str, width: int) -> Callable[[int], None]:
    """One whole step of that method on a network of its own."""
    torch.manual_seed(0)
    model = mlp(MLPOptions(width=width), (INPUTS,), CLASSES, torch.Generator().manual_seed(0))
    inputs, labels = torch.randn(BATCH, INPUTS), torch.randint(CLASSES, (BATCH,))
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-4, fused=True)
    if name.startswith("hand:"):
        generator = torch.Generator().manual_seed(0)
        by_hand = {
            "hand:backprop": lambda: hand_written.backprop(),
            "hand:weight-perturbation": lambda: hand_written.weight_perturbation(generator),
            "hand:activation-perturbation": lambda: hand_written.activation_perturbation(generator),
            "hand:wt": lambda: hand_written.activation_perturbation(generator, transpose=True),
        }[name]()

        def step(number: int) -> None:
            with torch.no_grad():
                gradients = by_hand(list(parameters.values()), inputs, labels)
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()

        return step

    method, streams = estimator(name), Streams(0)
    method.bind(model, inputs[:2])

    def fg_step(number: int) -> None:
        estimate = method.estimate(model, cross_entropy, Batch(inputs, labels), streams.at(number))
        for key, parameter in parameters.items():
            parameter.grad = estimate.gradients.get(key)
        optimizer.step()

    return fg_step


def measure(names: list[str], width: int, rounds: int, warm_up: int = 3) -> dict[str, list[float]]:
    """Milliseconds of every step after the warm-up, the methods in turn."""
    steps = {name: stepper(name, width) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step(number)
            if number >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def peak_memory(name: str, width: int) -> float:
    """MiB that one step (the eleventh, with its refresh) holds at its peak beyond what it found allocated."""
    step = stepper(name, width)
    for number in range(10):
        step(number)
    return peak_of(lambda: step(10), torch.device("cpu")) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=lambda text: text.split(","), required=True)
    parser.add_argument("--widths", type=lambda text: [int(part) for part in text.split(",")], required=True)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--memory", action="store_true", help="also the memory that a step holds at its peak")
    parser.add_argument("--plot", help="a figure of the medians over the width (.png, .svg or .pdf)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    first = arguments.methods[0]
    memory_head = " peak of a step, MiB |" if arguments.memory else ""
    print(f"| width | method | step, ms (quartiles) | ratio to {first} |{memory_head}")
    print(f"|---|---|---|---|{'---|' if arguments.memory else ''}")
    medians: dict[str, list[float]] = {name: [] for name in arguments.methods}
    for width in arguments.widths:
        times = measure(arguments.methods, width, arguments.rounds)
        base = statistics.median(times[first])
        for name, values in times.items():
            low, median, high = statistics.quantiles(values, n=4)
            medians[name].append(median)
            row = f"| {width} | {name} | {median:.2f} ({low:.2f} to {high:.2f}) | {median / base:.2f} |"
            memory = f" {peak_memory(name, width):.1f} |" if arguments.memory else ""
            print(row + memory, flush=True)
    if arguments.plot:
        plot(arguments.widths, medians, arguments.plot)


def plot(widths: list[int], medians: dict[str, list[float]], path: str) -> None:
    """Step time over width, both logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "fg"
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, values in medians.items():
        axes.loglog(widths, values, marker="o", label=name)
    axes.set(xlabel="width", ylabel="time of a step, ms", xticks=widths, xticklabels=widths)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)


if __name__ == "__main__":
    main()
