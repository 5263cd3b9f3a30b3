"""Peak memory of one step on a deep network, each method in a fresh process.

    python benchmarks/memory.py --depth 64 --methods inference,backprop,activation-perturbation:memory=replay
    python benchmarks/memory.py --model resmlp:width=256 --depth 32 --batch 2048 --methods wt,wt:memory=replay

A row a method, in MiB:

tensors    the most that one estimate holds beyond what it found (weights, data, moments), its gradients included
activations    the same without what the estimate returns: activations, tangents, noise and the like
process    the most that a step of estimator and optimiser is resident with, beyond the process before it, when it has
           torch, weights, data, gradients and moments and has made a step on 8 samples
time       seconds of that one step
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

INPUTS, CLASSES = 40, 10
MIB = 2**20


def measure(name: str, network: str, depth: int, size: int) -> str:
    """The row of one method."""
    import torch
    from step_time import cross_entropy, estimator

    from fgcli.devices import peak_memory_bytes
    from fgcli.extend.registry import load_registry
    from fgcli.gradient.estimator import Batch
    from fgcli.gradient.randomness import Streams
    from fgcli.recipe import parse_assignments

    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    kind, *assignments = network.split(":")
    entry = load_registry().entry("model", kind)
    options = entry.options(**parse_assignments([*assignments, f"depth={depth}"]))
    model = entry.load()(options, (INPUTS,), CLASSES, generator)
    batch = Batch(torch.randn(size, INPUTS), torch.randint(CLASSES, (size,)))
    parameters = dict(model.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=1e-4, fused=True)
    for parameter in parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    few = Batch(batch.inputs[:8].clone(), batch.targets[:8])
    method = None if name == "inference" else estimator(name)
    if method is not None:
        method.bind(model, few.inputs)

    def estimate(some: Batch, number: int) -> object:
        if method is None:
            with torch.no_grad():
                return cross_entropy(model(some.inputs), some.targets)
        return method.estimate(model, cross_entropy, some, Streams(0).at(number))

    def step(some: Batch, number: int) -> None:
        made = estimate(some, number)
        for key, gradient in getattr(made, "gradients", {}).items():
            parameters[key].grad = gradient
        optimizer.step()

    step(few, 0)
    before = _resident()
    start = time.perf_counter()
    step(batch, 1)
    seconds = time.perf_counter() - start
    process = peak_memory_bytes(torch.device("cpu")) - before
    tensors, activations = peaks(lambda: estimate(batch, 2))
    return f"| {depth} | {name} | {tensors / MIB:.1f} | {activations / MIB:.1f} | {process / MIB:.0f} | {seconds:.1f} |"


def peaks(call: Callable[[], object]) -> tuple[int, int]:
    """Bytes of tensors that a call holds at its peak, and the same without what is still there afterwards."""
    from torch._C._profiler import _EventType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = call()
    changes: list[tuple[int, int, int]] = []
    raw: Any = profiler.profiler
    ahead: list[Any] = list(raw.kineto_results.experimental_event_tree())
    while ahead:
        event = ahead.pop()
        ahead.extend(event.children)
        if event.tag == _EventType.Allocation:
            changes.append((event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    changes.sort()
    last = {pointer: number for number, (_, pointer, _) in enumerate(changes)}
    surviving = {number for number in last.values() if changes[number][2] > 0}
    passing = [size for number, (_, _, size) in enumerate(changes) if number not in surviving]
    assert kept is not None
    return max(accumulate(size for _, _, size in changes)), max(accumulate(passing))


def _resident() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", type=lambda text: text.split(","), required=True)
    parser.add_argument("--model", default="mlp:width=512", help="name:option=value:option=value")
    parser.add_argument("--depth", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        print(measure(arguments.methods[0], arguments.model, arguments.depth, arguments.batch), flush=True)
        return
    print("| depth | method | tensors | activations | process | time, s |\n|---|---|---|---|---|---|", flush=True)
    for name in arguments.methods:
        command = [sys.executable, __file__, "--alone", "--methods", name, "--model", arguments.model]
        subprocess.run([*command, "--depth", str(arguments.depth), "--batch", str(arguments.batch)], check=True)


if __name__ == "__main__":
    main()
