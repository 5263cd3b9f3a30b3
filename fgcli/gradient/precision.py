"""The network computed in fewer bits: parameters, guesses, loss, δ and gradients stay in float32.

torch.autocast computes the layers of the forward pass in bfloat16 or float16, their tangents with them. What a guess
method does, from factorisations to its map, is left in float32, and so are the loss, whose tangent is δ, and the
products that weight gradients are made of.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

LOW = (torch.bfloat16, torch.float16)


def full_precision(on: Tensor | torch.device) -> AbstractContextManager[Any]:
    """Within it, all on this device, or that of a tensor, is computed in the precision that it has."""
    device = (on.device if isinstance(on, Tensor) else on).type
    # Not entered for nothing: it takes 10 µs, which a small layer would feel.
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def wide(values: Any) -> Any:
    """A tensor in float32, if it is in a lower precision; any other value itself."""
    return values.float() if isinstance(values, Tensor) and values.dtype in LOW else values


def lacks(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why layers and their tangents cannot be computed in `dtype` there; None if they can."""
    layer = nn.Linear(2, 2, device=device)
    x = torch.ones(2, 2, device=device)
    quiet = warnings.catch_warnings(action="ignore")  # autocast warns, and does nothing
    try:
        with quiet, torch.no_grad(), forward_ad.dual_level(), torch.autocast(device.type, dtype):
            outputs = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, x)))
    except (RuntimeError, NotImplementedError) as cause:
        return str(cause).splitlines()[0]
    found = {one.dtype for one in outputs if one is not None}
    return None if found == {dtype} else f"torch.autocast computes in {', '.join(map(str, found))} there"
