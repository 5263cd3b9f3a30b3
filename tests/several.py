"""The estimates of several processes, beside one's: `python tests/several.py FOLDER RANK SIZE` is one of them."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli import ForwardGradient, OptionRefused
from fgcli.gradient.local_losses import LocalLosses
from fgcli.models.local_heads import with_local_losses

SAMPLES, STEPS = 13, 2
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


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 4))


def with_heads() -> nn.Module:
    generator = torch.Generator().manual_seed(2)
    return with_local_losses(chain(), "1,3", "projection", 1, torch.zeros(2, 6), 4, generator)


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
    "local losses": Case("activation-perturbation", {"tangents": 2}, with_heads),
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
    model, x, y = problem(case)
    model.to(device)
    learner = ForwardGradient(model, case.method, seed=3, process_group=group, **case.options)
    found, loss = {}, model.loss_of(case.loss) if isinstance(model, LocalLosses) else case.loss
    for step in range(STEPS):
        model.zero_grad()
        learner.step(x.to(device), y.to(device), loss)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        found |= {f"{step} {name}": gradient.clone().cpu() for name, gradient in gradients.items()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in gradients:
                    parameter.sub_(0.05 * gradients[name] / gradients[name].norm().clamp_min(1e-9))
    return found | {"sent": torch.tensor(learner.bytes_sent)}


def problem(case: Case) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(5)
    return case.make().double(), torch.randn(SAMPLES, 6, dtype=torch.double), torch.randint(4, (SAMPLES,))


def spoilt(outputs: Tensor, targets: Tensor) -> Tensor:
    """Not finite for class 3, and of finite derivative."""
    return losses(outputs, targets) + torch.where(targets == 3, torch.inf, 0.0)


def fault(method: str, group: dist.ProcessGroup) -> bool:
    """Whether this process sees that the last sample, which the other has, has no finite loss."""
    model, x, y = problem(Case(method))
    y = torch.where(torch.arange(SAMPLES) == SAMPLES - 1, 3, y.clamp(max=2))
    ForwardGradient(model, method, process_group=group).step(x, y, spoilt)
    return not all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def refused(change: str, rank: int, group: dist.ProcessGroup) -> str:
    """What is said where the process of rank 1 has something else."""
    model, x, y = problem(Case("wt"))
    seed = 1 if change == "seed" and rank else 0
    if change == "batch" and rank:
        x = x + 1
    if change == "model" and rank:
        with torch.no_grad():
            next(model.parameters()).add_(1)
    try:
        ForwardGradient(model, "wt", seed=seed, process_group=group).step(x, y, losses)
    except OptionRefused as refusal:
        return str(refusal)
    return ""


def main(folder: Path, rank: int, size: int, device: str = "cpu") -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform == "linux" else "lo0"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder / 'meeting'}", rank=rank, world_size=size)
    group = dist.group.WORLD
    assert group is not None
    told = {
        "faults": {method: fault(method, group) for method in ("weight-perturbation", "wt", "backprop")},
        "refused": {change: refused(change, rank, group) for change in ("seed", "batch", "model")},
    }
    (folder / f"{rank}.json").write_text(json.dumps(told))
    torch.save({name: estimates(case, group, device) for name, case in CASES.items()}, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
