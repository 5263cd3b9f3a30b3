"""Forwards that are not the same when they are run again: passes of one step would see different networks."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.buffers import untouched
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.look import on_few
from fgcli.gradient.nested import first_tensor, leaves
from fgcli.gradient.plain import plain_checkpoints
from fgcli.gradient.uses import call


def refuse_unsteady(model: nn.Module, example: Any) -> None:
    """ModelRefused where a forward keeps something beside its buffers, or draws beside torch's generators.

    Args:
        model: any module. Its buffers and torch's generators are as before afterwards.
        example: inputs, of which two samples are taken where the model takes so few.
    """
    one, other = on_few(partial(_twice, model), example)
    pairs = zip(one, other, strict=False)
    if len(one) != len(other) or not all(a.shape == b.shape and torch.allclose(a, b, equal_nan=True) for a, b in pairs):
        raise ModelRefused(
            "the model gives something else when it is called again with the same inputs, so that the forwards of one "
            "step would not be of one network: keep what it counts or remembers in a buffer (register_buffer), draw "
            "from torch's generators only, or use weight-perturbation with one tangent, or backprop"
        )


@torch.no_grad()
def _twice(model: nn.Module, inputs: Any) -> list[list[Tensor]]:
    found = []
    for _ in range(2):
        with untouched(model, first_tensor(inputs).device), plain_checkpoints():
            found.append([one.clone() for one in leaves(call(model, inputs))])
    return found
