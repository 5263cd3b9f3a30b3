"""The estimates of several processes, beside one's: `python tests/several.py FOLDER RANK SIZE` is one of them."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli import ForwardGradient

SAMPLES, STEPS = 13, 3
"""So that no process has as many samples as the other."""


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction="none")


class Residual(nn.Module):
    """With elementwise parameters, and W̃ that is no matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.last(h + torch.tanh(self.inner(self.norm(h))))


class WithTable(Residual):
    """With a table, which has one guess for all samples."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(1, 6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.table(torch.zeros(1, dtype=torch.long, device=x.device)))


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 4))


@dataclass(frozen=True)
class Case:
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    make: Callable[[], nn.Module] = chain
    loss: Callable[[Tensor, Tensor], Tensor] = losses
    scalars: int | None = None
    """How many numbers a step sends, where that is claimed."""


CASES = {
    "backprop": Case("backprop"),
    "backprop, mean": Case("backprop", loss=F.cross_entropy),
    "weight-perturbation": Case("weight-perturbation", scalars=1),
    "weight-perturbation, mean": Case("weight-perturbation", loss=F.cross_entropy, scalars=1),
    "weight-perturbation, 4": Case("weight-perturbation", {"tangents": 4, "combine": "orthogonal"}, scalars=4),
    "weight-perturbation, projection": Case("weight-perturbation", {"tangents": 3, "combine": "projection"}, scalars=3),
    "spsa": Case("spsa", {"tangents": 2, "epsilon": 1e-5}, scalars=2),
    "fzoo": Case("fzoo", {"tangents": 4}, scalars=4),
    "activation-perturbation": Case("activation-perturbation"),
    "activation-perturbation, mean": Case("activation-perturbation", loss=F.cross_entropy),
    "activation-perturbation, residual": Case("activation-perturbation", make=Residual),
    "activation-perturbation, 3": Case("activation-perturbation", {"tangents": 3, "combine": "orthogonal"}, Residual),
    "activation-perturbation, table": Case("activation-perturbation", {"output_gradient": "exact"}, WithTable),
    "activation-perturbation, table, 3": Case("activation-perturbation", {"tangents": 3}, WithTable),
    "local, table": Case("wt", {"feedback": "local"}, WithTable),
    "activation-perturbation, replay": Case("activation-perturbation", {"memory": "replay"}),
    "rademacher": Case("activation-perturbation", {"tangents": 2, "draws": "rademacher"}),
    "sitewise": Case("wt", {"tangents": 2, "combine": "sitewise"}),
    "wt": Case("wt"),
    "wt, residual": Case("wt", make=Residual),
    "wperp": Case("wperp", {"k": 2}),
    "wperp, mean space": Case("wperp", {"k": 2, "solver": "mean"}, Residual),
    "wperp-ns": Case("wperp-ns", {"k": 2}),
    "direct": Case("wt", {"feedback": "direct"}),
    "direct, mean": Case("wt", {"feedback": "direct"}, loss=F.cross_entropy),
    "direct, corrected": Case("wt", {"feedback": "direct", "correction": 1.0}, Residual),
    "local": Case("wt", {"feedback": "local"}),
    "local, residual": Case("wt", {"feedback": "local"}, Residual),
    "local, replay": Case("wt", {"feedback": "local", "memory": "replay"}),
    "local, bootstrap": Case("wt", {"feedback": "local", "feedback_learning": "bootstrap"}),
    "fdfa": Case("wt", {"feedback": "fdfa"}),
}


def estimates(case: Case, group: dist.ProcessGroup | None = None, device: str = "cpu") -> dict[str, Tensor]:
    """The parameters' gradients in each of some steps, between which the weights are moved, and what was sent."""
    torch.manual_seed(5)
    model = case.make().double().to(device)
    x, y = torch.randn(SAMPLES, 6, dtype=torch.double), torch.randint(4, (SAMPLES,))
    learner = ForwardGradient(model, case.method, seed=3, process_group=group, **case.options)
    found = {}
    for step in range(STEPS):
        model.zero_grad()
        learner.step(x.to(device), y.to(device), case.loss)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                found[f"{step} {name}"] = parameter.grad.clone().cpu()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.05 * parameter.grad / parameter.grad.norm().clamp_min(1e-9))
    return found | {"sent": torch.tensor(learner.bytes_sent)}


def main() -> None:
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    found = {}
    for name, case in CASES.items():
        if len(sys.argv) > 4:
            print(rank, name, flush=True)
        found[name] = estimates(case, dist.group.WORLD)
    torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
