"""Small modules of every kind that a forward may be made of, in float64, each with inputs for it."""

from typing import Any

import torch
from torch import nn

from zoo import elementwise as elementwise
from zoo import forwards as forwards
from zoo import layers as layers
from zoo import weights as weights
from zoo.kinds import ZOO as ZOO
from zoo.kinds import Net as Net
from zoo.kinds import Pair as Pair
from zoo.kinds import ids as ids
from zoo.kinds import random as random
from zoo.kinds import vectors as vectors
from zoo.kinds import weight as weight


def made(name: str) -> nn.Module:
    """A model of the zoo."""
    torch.manual_seed(sum(map(ord, name)))
    before = torch.get_default_dtype()
    torch.set_default_dtype(ZOO[name].dtype)
    try:
        return ZOO[name].make()
    finally:
        torch.set_default_dtype(before)


def inputs_of(name: str, size: int) -> Any:
    torch.manual_seed(5)
    before = torch.get_default_dtype()
    torch.set_default_dtype(ZOO[name].dtype)
    try:
        return ZOO[name].inputs(ZOO[name].size or size)
    finally:
        torch.set_default_dtype(before)
