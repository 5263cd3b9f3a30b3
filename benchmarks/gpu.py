"""What an accelerator gives: equality with the CPU, and the time and memory of a step over the width.

    python benchmarks/gpu.py                                          # CUDA, widths 512 to 16,384, under four minutes
    python benchmarks/gpu.py --device cpu --widths 32,64 --seconds 20

First each method's gradients on the device are held to those on the CPU, in float64 and with the same noise: a
difference above 1e-8 of the gradient's norm is an error, exit code 1. Then a row a method and width: three hidden
layers, batch 512, AdamW; the median step and its ratio to backpropagation's, and what a step holds at its peak beyond
what it found, with the gradients. Rows for which the time is up are left out, and said.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise

import torch
from step_time import cross_entropy, estimator
from torch import Tensor, nn

from fgcli.bench.measure import peak_of
from fgcli.devices import describe, synchronize
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Signs, StepRng, Streams

METHODS = [
    "backprop",
    "backprop-checkpoint",
    "wt",
    "wperp:solver=shared",
    "activation-perturbation:feedback=direct",
    "activation-perturbation:feedback=local",
]
INPUTS, CLASSES, TOLERANCE = 40, 10, 1e-8
WARM_UP, STEPS = 3, 20


class SameNoise(StepRng):
    """Streams that are drawn on the CPU, whatever device takes them."""

    def normal(self, purpose: str, site: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        return super().normal(purpose, site, shape, torch.empty(0, dtype=like.dtype)).to(like.device)

    def signs(self, purpose: str, site: str, shape: tuple[int, ...], device: torch.device) -> Signs:
        return Signs(super().signs(purpose, site, shape, torch.device("cpu")).bits.to(device), shape)


def network(width: int, device: torch.device, dtype: torch.dtype) -> nn.Sequential:
    """Three hidden layers, the same weights on every device."""
    torch.manual_seed(0)
    widths = [INPUTS, width, width, width, CLASSES]
    layers = [layer for d_in, d_out in pairwise(widths) for layer in (nn.Linear(d_in, d_out, bias=False), nn.ReLU())]
    return nn.Sequential(*layers[:-1]).to(device, dtype)


def data(samples: int, device: torch.device, dtype: torch.dtype) -> Batch:
    torch.manual_seed(1)
    inputs, labels = torch.randn(samples, INPUTS, dtype=dtype), torch.randint(CLASSES, (samples,))
    return Batch(inputs.to(device), labels.to(device))


def gradients(name: str, device: torch.device, steps: int = 3) -> dict[str, Tensor]:
    """Those of the last of some steps, on the CPU: by then feedback and tracked spaces have learned something."""
    model, batch = network(48, device, torch.float64), data(64, device, torch.float64)
    method = estimator(name)
    method.bind(model, batch.inputs)
    estimates = [method.estimate(model, cross_entropy, batch, SameNoise(Streams(0), step)) for step in range(steps)]
    return {key: one.cpu() for key, one in estimates[-1].gradients.items()}


def differences(device: torch.device) -> dict[str, float]:
    """By method: the largest difference to the CPU's gradients, as a share of a gradient's norm."""
    found = {}
    for name in METHODS:
        there, here = gradients(name, device), gradients(name, torch.device("cpu"))
        found[name] = max(float((there[key] - one).norm() / one.norm()) for key, one in here.items())
    return found


def stepper(name: str, width: int, device: torch.device) -> Callable[[int], None]:
    """One whole step, estimator and optimiser."""
    model, batch = network(width, device, torch.float32), data(512, device, torch.float32)
    parameters, method = dict(model.named_parameters()), estimator(name)
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-4, fused=True)
    method.bind(model, batch.inputs)

    def step(number: int) -> None:
        estimate = method.estimate(model, cross_entropy, batch, Streams(0).at(number))
        for key, parameter in parameters.items():
            parameter.grad = estimate.gradients[key]
        optimizer.step()
        for parameter in parameters.values():
            parameter.grad = None

    return step


def measure(name: str, width: int, device: torch.device, seconds: float) -> tuple[float, float]:
    """Median milliseconds of a step, of as many as there is time for, at least three; and MiB at its peak."""
    step, times = stepper(name, width, device), []
    end = time.perf_counter() + seconds
    for number in range(WARM_UP + STEPS):
        synchronize(device)
        start = time.perf_counter()
        step(number)
        synchronize(device)
        if number >= WARM_UP:
            times.append(1e3 * (time.perf_counter() - start))
        if len(times) >= 3 and time.perf_counter() > end:
            break
    return statistics.median(times), peak_of(lambda: step(WARM_UP + STEPS), device) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--widths", type=lambda text: [int(part) for part in text.split(",")],
                        default=[512, 1024, 2048, 4096, 8192, 16384])  # fmt: skip
    parser.add_argument("--seconds", type=float, default=220.0, help="for all of it")
    arguments = parser.parse_args()
    device, end = arguments.device, time.perf_counter() + arguments.seconds
    print(f"{describe(device)}, torch {torch.__version__}\n\n| method | difference to the CPU |\n|---|---|")
    found = differences(device)
    for name, difference in found.items():
        print(f"| {name} | {difference:.1e} |")
    print("\n| width | method | step, ms | ratio to backprop | peak of a step, MiB |\n|---|---|---|---|---|")
    rows = [(width, name) for width in arguments.widths for name in METHODS]
    base = 0.0
    for number, (width, name) in enumerate(rows):
        left = end - time.perf_counter()
        if left <= 0:
            print(f"\nThe time was up before: {', '.join(f'{name} at {width}' for width, name in rows[number:])}")
            break
        milliseconds, peak = measure(name, width, device, left / (len(rows) - number))
        base = milliseconds if name == "backprop" else base
        print(f"| {width} | {name} | {milliseconds:.2f} | {milliseconds / base:.2f} | {peak:.0f} |", flush=True)
    wrong = {name: one for name, one in found.items() if not one <= TOLERANCE}
    if wrong:
        sys.exit(f"gradients differ from the CPU's: {wrong}")


if __name__ == "__main__":
    main()
