"""What a kind of module is, and what kinds are made of."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Forward = Callable[..., Any]


class Net(nn.Module):
    """Modules and parameters by name, and a forward of them: `forward(self, *inputs)`."""

    def __init__(self, forward: Forward, **parts: Any) -> None:
        super().__init__()
        self.function = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.function(self, *inputs, **keywords)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.get_default_dtype())


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(random(*shape) / math.sqrt(shape[-1]))


def vectors(*shape: int) -> Callable[[int], Any]:
    return lambda size: random(size, *shape)


def ids(*shape: int, below: int = 5) -> Callable[[int], Any]:
    return lambda size: torch.randint(below, (size, *shape))


@dataclass(frozen=True)
class Kind:
    """A module of the zoo."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    sites: tuple[str, ...] | None = None
    """The names of its sites, in order."""
    pieces: tuple[str, ...] = ()
    """Its trained parameters that no site covers."""
    mixes: bool = False
    size: int | None = None
    """The only size of a batch that it takes."""
    dtype: torch.dtype = torch.float64
    unused: tuple[str, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)


class Pair(NamedTuple):
    logits: Tensor
    hidden: Tensor


@dataclass
class Result:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    length: int = field(init=False, default=3)


ZOO: dict[str, Kind] = {}


def kind(name: str, make: Callable[[], nn.Module], inputs: Callable[[int], Any], *sites: str, **more: Any) -> None:
    ZOO[name] = Kind(make, inputs, sites or None, **more)
