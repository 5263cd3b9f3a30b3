"""One task by public implementations and by fg: steps in turn, accuracies by one search. The numbers of peers.md.

    python benchmarks/peers.py accuracy --rows benchmarks/results/peers.json   # goes on where it was ended
    python benchmarks/peers.py steps
    python benchmarks/peers.py table --rows benchmarks/results/peers.json

MNIST-1D, an MLP of three hidden layers of width 256, batch 512, Adam at a constant rate.
The peers: torchzero from PyPI, and the repositories orobix/fwdgrad and jsalbert/biotorch on the PYTHONPATH.
"""

import argparse
import contextlib
import copy
import io
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli import ForwardGradient
from fgcli.data.mnist1d import mnist1d
from fgcli.data.options import Mnist1dOptions
from fgcli.models.mlp import mlp
from fgcli.models.options import MLPOptions

warnings.filterwarnings("ignore", message="Using a non-full backward hook")
RATES, SEARCHED, SEEDS, EPOCHS, BATCH = (3e-4, 1e-3, 3e-3, 1e-2), 100, (0, 1, 2), 40, 512
Step = Callable[[Tensor, Tensor], None]


def adam(model: nn.Module, rate: float) -> torch.optim.Optimizer:
    return torch.optim.Adam([one for one in model.parameters() if one.requires_grad], rate)


def ours(method: str, **options: Any) -> Callable[[nn.Module, float, int], Step]:
    """fg's method."""

    def made(model: nn.Module, rate: float, seed: int) -> Step:
        gradient, optimizer = ForwardGradient(model, method, seed=seed, **options), adam(model, rate)

        def step(x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad()
            gradient.step(x, y, lambda outputs, labels: F.cross_entropy(outputs, labels, reduction="none"))
            optimizer.step()

        return step

    return made


def torchzero(module: str) -> Callable[[nn.Module, float, int], Step]:
    """torchzero's module, with its own Adam."""

    def made(model: nn.Module, rate: float, seed: int) -> Step:
        import torchzero as tz  # pyright: ignore[reportMissingImports] # a peer

        optimizer = tz.Optimizer(model.parameters(), getattr(tz.m, module)(), tz.m.Adam(0.9, 0.999), tz.m.LR(rate))

        def step(x: Tensor, y: Tensor) -> None:
            def closure(backward: bool = True) -> Tensor:
                loss = F.cross_entropy(model(x), y)
                if backward:
                    optimizer.zero_grad()
                    loss.backward()
                return loss

            optimizer.step(closure)

        return step

    return made


def fwdgrad(model: nn.Module, rate: float, seed: int) -> Step:
    """The step of fwdgrad's mnist_fwdgrad.py, on its own function of the parameters, with Adam."""
    from fwdgrad.loss import functional_xent  # pyright: ignore[reportMissingImports] # a peer

    base, optimizer = copy.deepcopy(model).to("meta"), adam(model, rate)
    named = dict(model.named_parameters())
    names, parameters = named.keys(), tuple(named.values())

    def step(x: Tensor, y: Tensor) -> None:
        with torch.no_grad():
            v = tuple(torch.randn_like(one) for one in parameters)
            f = partial(functional_xent, model=base, names=names, buffers={}, x=x, t=y)
            slope = torch.func.jvp(f, (parameters,), (v,))[1]
            for one, direction in zip(parameters, v, strict=True):
                one.grad = direction * slope
        optimizer.step()

    return step


def biotorch(mode: str) -> Callable[[nn.Module, float, int], Step]:
    """biotorch's layers in place of the model's, with their weights."""

    def made(model: nn.Module, rate: float, seed: int) -> Step:
        from biotorch.module.biomodule import BioModule  # pyright: ignore[reportMissingImports] # a peer

        with contextlib.redirect_stdout(io.StringIO()):
            bio = BioModule(model, mode=mode, output_dim=10)
        optimizer = adam(bio, rate)

        def step(x: Tensor, y: Tensor) -> None:
            optimizer.zero_grad()
            outputs = bio(x, targets=y, loss_function=F.cross_entropy) if mode == "dfa" else bio(x)
            F.cross_entropy(outputs, y).backward()
            optimizer.step()

        return step

    return made


LINES: dict[str, Callable[[nn.Module, float, int], Step]] = {
    "backpropagation": ours("backprop"),
    "forward gradient, fg": ours("weight-perturbation"),
    "forward gradient, fwdgrad": fwdgrad,
    "forward gradient, torchzero": torchzero("ForwardGradient"),
    "SPSA, fg": ours("spsa"),
    "SPSA, torchzero": torchzero("SPSA"),
    "MeZO, fg": ours("mezo"),
    "MeZO, torchzero": torchzero("MeZO"),
    "feedback alignment, fg": ours("activation-perturbation", feedback="feedback-alignment"),
    "feedback alignment, biotorch": biotorch("fa"),
    "sign symmetry, fg": ours("activation-perturbation", feedback="sign-symmetry"),
    "sign symmetry, biotorch": biotorch("usf"),
    "DFA, fg": ours("activation-perturbation", feedback="direct-feedback-alignment"),
    "DFA, biotorch": biotorch("dfa"),
    "feedback local, fg": ours("activation-perturbation", feedback="local"),
}


def network(seed: int) -> nn.Module:
    """The paper's MLP, with biases: biotorch's conversion takes them for granted."""
    return mlp(MLPOptions(width=256, bias=True), (40,), 10, torch.Generator().manual_seed(seed))


def trained(name: str, rate: float, seed: int) -> list[float]:
    """Training loss, training accuracy and test accuracy after EPOCHS."""
    data = mnist1d(Mnist1dOptions())
    torch.manual_seed(seed)
    model = network(seed)
    step, order = LINES[name](model, rate, seed), torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(data.train_inputs), generator=order).split(BATCH):
            step(data.train_inputs[rows], data.train_targets[rows])
    model.eval()
    with torch.no_grad():
        outputs, tested = model(data.train_inputs), model(data.test_inputs)
    loss = float(F.cross_entropy(outputs, data.train_targets))
    accuracy = [
        (one.argmax(1) == y).float().mean() for one, y in ((outputs, data.train_targets), (tested, data.test_targets))
    ]
    return [loss if loss == loss else float("inf"), *map(float, accuracy)]


def accuracies(file: Path) -> None:
    """All lines: the rate that ends at the least training loss with another seed, then the seeds."""
    rows: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for name in LINES:
        row = rows.setdefault(name, {"searched": {}, "seeds": {}})
        for rate in RATES:
            if str(rate) not in row["searched"]:
                row["searched"][str(rate)] = trained(name, rate, SEARCHED)[0]
        best = min(row["searched"], key=row["searched"].get)
        for seed in SEEDS:
            if str(seed) not in row["seeds"]:
                row["seeds"][str(seed)] = trained(name, float(best), seed)[1:]
        file.write_text(json.dumps(rows, indent=1) + "\n")
        print(name, best, row["seeds"], flush=True)


def steps(rounds: int) -> None:
    """Medians of steps taken in turn, in milliseconds, and over backpropagation's."""
    x, y = torch.randn(BATCH, 40), torch.randint(10, (BATCH,))
    made = {name: line(network(0), 1e-3, 0) for name, line in LINES.items()}
    took: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds + 30):
        for name, step in made.items():
            began = time.perf_counter()
            step(x, y)
            if number >= 30:
                took[name].append(1e3 * (time.perf_counter() - began))
    base = statistics.median(took["backpropagation"])
    print("| line | step, ms | over backpropagation's |\n|---|---|---|")
    for name, times in took.items():
        print(f"| {name} | {statistics.median(times):.1f} | {statistics.median(times) / base:.2f} |")


def table(file: Path) -> None:
    """Mean, and lowest and highest, of the seeds."""
    print("| line | learning rate | training | test |\n|---|---|---|---|")
    for name, row in json.loads(file.read_text()).items():
        best = min(row["searched"], key=row["searched"].get)
        cells = [list(one) for one in zip(*row["seeds"].values(), strict=True)]
        said = [f"{statistics.mean(one):.3f} [{min(one):.3f}, {max(one):.3f}]" for one in cells]
        print(f"| {name} | {float(best):g} | {said[0]} | {said[1]} |")


def main() -> None:
    """Do what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "steps", "table"])
    parser.add_argument("--rows", type=Path, default=Path(__file__).parent / "results" / "peers.json")
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    if given.what == "accuracy":
        accuracies(given.rows)
    elif given.what == "steps":
        steps(given.rounds)
    else:
        table(given.rows)


if __name__ == "__main__":
    main()
