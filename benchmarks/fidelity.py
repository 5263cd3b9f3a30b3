"""How near each solver comes to the paper's literal W̃⊥ (one SVD a sample) on trained weights, layer by layer.

    fgcli train --method wperp --width 256 --out /tmp/w256
    python benchmarks/fidelity.py /tmp/w256 ...

For each solver, on one batch: the energy ‖W̃A‖² over that of the top-k singular vectors, the overlap ‖V_kᵀA‖²/k with
them, the gradient overlap ‖A Aᵀg‖/‖g‖, the effective rank tr(Cov), and ‖Cov - V_kV_kᵀ‖ (Frobenius), where Cov = A Aᵀ.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from fgcli import GuessEstimator, load_registry
from fgcli.recipe import parse_assignments, read_recipe, resolve
from fgcli.training.assembly import Assembly, assemble
from fgcli.training.checkpoints import CheckpointStore
from fgcli.training.losses import cross_entropy
from fgcli.training.state import restore

SOLVERS = [
    "wperp:solver=svd",
    "wperp:solver=shared",
    "wperp:power_steps=1",
    "wperp",
    "wperp:oversampling=4:power_steps=4",
    "wperp-ns:solver=batched",
    "wperp-ns",
]


def load(path: Path) -> Assembly:
    text = (path / "recipe.yaml").read_text()
    registry = load_registry()
    assembly = assemble(resolve(read_recipe(path / "recipe.yaml"), {}, registry), registry)
    checkpoint, _ = CheckpointStore(path / "checkpoints", text).load_newest()
    assert checkpoint is not None
    restore(assembly, checkpoint)
    return assembly


def columns(name: str, model: nn.Module, inputs: Tensor, k: int) -> dict[str, Tensor]:
    """A of every hidden site, [batch, d, noise_dim], after enough refreshes for the tracked space to settle."""
    method, *assignments = name.split(":")
    _, entry = load_registry().method(method)
    estimator = GuessEstimator(entry.load()(entry.options(**{"k": k, **parse_assignments(assignments)})))
    sites = estimator.bind(model, inputs[:2]).sites
    for step in range(0, 2000, 50):
        estimator.linear_maps(model, inputs, step)
    maps = estimator.linear_maps(model, inputs, 2000)
    found = {}
    for site in sites[:-1]:
        n = maps[site].noise_dim
        found[site] = maps[site].map(torch.eye(n).expand(len(inputs), n, n))
    return found


def site_gradients(model: nn.Module, inputs: Tensor, targets: Tensor, sites: list[str]) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[site].register_forward_hook(lambda _, __, s, site=site: outputs.update({site: s})) for site in sites
    ]
    loss = cross_entropy(model(inputs), targets).mean()
    for handle in handles:
        handle.remove()
    return dict(zip(sites, torch.autograd.grad(loss, [outputs[site] for site in sites]), strict=True))


def report(path: Path, samples: int, k: int) -> None:
    assembly = load(path)
    model, width = assembly.model, assembly.recipe.width
    inputs, targets = assembly.dataset.train_inputs[:samples], assembly.dataset.train_targets[:samples]
    exact = columns("wperp:solver=svd", model, inputs, k)
    gradients = site_gradients(model, inputs, targets, list(exact))
    literal = GuessEstimator(load_registry().method("wt")[1].load()(None))
    literal.bind(model, inputs[:2])
    transposed = literal.linear_maps(model, inputs, 0)
    for name in SOLVERS:
        found = exact if name == SOLVERS[0] else columns(name, model, inputs, k)
        for site, a in found.items():
            v, g = exact[site], gradients[site].unsqueeze(-1)
            n = transposed[site].noise_dim
            jacobian = transposed[site].map(torch.eye(n).expand(samples, n, n)).mT  # W̃ [batch, d_out, d]
            energy = (jacobian @ a).square().sum((1, 2)) / (jacobian @ v).square().sum((1, 2))
            shared = (v.mT @ a).square().sum((1, 2))
            trace, square = a.square().sum((1, 2)), (a.mT @ a).square().sum((1, 2))
            rank = v.square().sum((1, 2))
            distance = (square - 2 * shared + rank).clamp_min(0).sqrt()
            overlap = ((a @ (a.mT @ g)).norm(dim=(1, 2)) / g.norm(dim=(1, 2)))[g.norm(dim=(1, 2)) > 0]
            cells = [energy.mean(), (shared / rank).mean(), overlap.mean(), trace.mean(), distance.mean()]
            print(
                f"| {width} | {site} | {name} | " + " | ".join(f"{float(cell):.3f}" for cell in cells) + " |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--k", type=int, default=10)
    arguments = parser.parse_args()
    print("| width | layer | solver | energy | overlap | gradient overlap | tr(Cov) | ‖Cov - V_kV_kᵀ‖ |")
    print("|---|---|---|---|---|---|---|---|")
    for path in arguments.runs:
        report(path, arguments.samples, arguments.k)


if __name__ == "__main__":
    sys.exit(main())
