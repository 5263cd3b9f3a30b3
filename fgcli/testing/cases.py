"""The networks and batches that methods are tried on: sound ones, and those on which solvers break."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch

WIDTHS = (6, 8, 5, 9, 4)  # d_out below and above d_in
M = TypeVar("M", bound=nn.Module)
DTYPES = (torch.float32, torch.float64)


@dataclass(frozen=True)
class Case:
    """A network in a state, and a batch."""

    name: str
    model: nn.Module
    batch: Batch

    def __str__(self) -> str:
        first = next(self.model.parameters())
        return f"{self.name} ({first.dtype}, {first.device})".replace("torch.", "")


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample losses [batch]."""
    return F.cross_entropy(outputs, targets, reduction="none")


def devices() -> list[str]:
    """The CPU, and a CUDA device where there is one."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def cases(*, any_network: bool) -> Iterator[Case]:
    """Each state in both precisions on each device; networks that are no chain too if asked for."""
    states: dict[str, Callable[[], nn.Module]] = {
        "a network": chain,
        "a network with biases and tanh": lambda: chain(activation=nn.Tanh, bias=True),
        "a network whose weights have rank 1": lambda: changed(lambda w: w[:, :1] * w[:1, :]),
        "a network whose weights are all 0": lambda: changed(torch.zeros_like),
        "a network whose units are all on": lambda: changed(torch.abs),
    }
    if any_network:
        states["a network with convolutions, LayerNorm and a residual connection"] = Residual
    for device in devices():
        for dtype in DTYPES:
            for name, make in states.items():
                model = make().to(device=device, dtype=dtype)
                yield Case(name, model, batch_for(model))


def chain(activation: type[nn.Module] = nn.ReLU, bias: bool = False, widths: tuple[int, ...] = WIDTHS) -> nn.Sequential:
    """Linear layers with activations between, in float64; weights twice PyTorch's, so that no gradient is tiny."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.utils.skip_init(nn.Linear, d_in, d_out, bias=bias, dtype=torch.float64), activation()]
    return _drawn(nn.Sequential(*layers[:-1]))


def balance(model: nn.Sequential, lengths: Sequence[float]) -> None:
    """Change the weights such that gradients of these lengths at the layers' outputs all have the last one's.

    The function stays the same: ReLU lets a factor pass from one weight to the next.
    """
    before = 1.0
    for layer, length in zip((one for one in model if isinstance(one, nn.Linear)), lengths, strict=True):
        layer.weight.data *= (length / lengths[-1]) / before  # so that the output is length / lengths[-1] as long
        before = length / lengths[-1]


def changed(change: Callable[[Tensor], Tensor]) -> nn.Sequential:
    """A chain whose weights went through `change`."""
    model = chain()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(change(parameter))
    return model


def batch_for(model: nn.Module, samples: int = 6) -> Batch:
    """A batch whose first sample is all 0, which switches every unit off, and whose second is all 1."""
    first = next(model.parameters())
    shape = (2, 6, 6) if isinstance(model, Residual) else (first.shape[1],)
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(samples, *shape, generator=generator, dtype=torch.float64)
    inputs[0], inputs[1] = 0, 1
    with torch.no_grad():
        classes = model(inputs[:1].to(first.device, first.dtype)).shape[1]
    targets = torch.randint(classes, (samples,), generator=generator)
    return Batch(inputs.to(first.device, first.dtype), targets.to(first.device))


class Residual(nn.Module):
    """Conv2d, then Linear layers with a LayerNorm and a residual connection; [batch, 2, 6, 6] to 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.skip_init(nn.Conv2d, 2, 3, 3, stride=2, dtype=torch.float64)
        self.enter = nn.utils.skip_init(nn.Linear, 12, 6, dtype=torch.float64)
        self.norm = nn.LayerNorm(6, dtype=torch.float64)
        self.inner = nn.utils.skip_init(nn.Linear, 6, 6, bias=False, dtype=torch.float64)
        self.leave = nn.utils.skip_init(nn.Linear, 6, 4, dtype=torch.float64)
        _drawn(self, skip="norm")

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(torch.tanh(self.conv(x)).flatten(1))
        return self.leave(x + F.relu(self.inner(self.norm(x))))


def _drawn(model: M, skip: str = "-") -> M:
    """The parameters from a generator of their own: PyTorch's initialisation draws from the global one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(skip):
                bound = 2 / parameter[0].numel() ** 0.5 if parameter.dim() > 1 else 0.3
                parameter.copy_(bound * (2 * torch.rand(parameter.shape, generator=generator, dtype=torch.float64) - 1))
    return model
