"""Contexts within which PyTorch uses nothing that a pass cannot follow: no fused attention, no checkpoints."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import checkpoint


@contextmanager
def math_attention() -> Iterator[None]:
    """Within it attention has derivatives of every kind: fused kernels have no forward-mode formula, on any device.

    Neither has the whole layer that torch.nn's transformers call in eval mode.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def plain_checkpoints() -> Iterator[None]:
    """Within it `torch.utils.checkpoint` calls its function and does no more.

    It would call the function again on the way back, where no pass sees the uses, so that other values are saved than
    before. A pass keeps no graph of the network, and needs no checkpoints.
    """
    module: Any = checkpoint  # whose names are those that its functions look up
    before = module._checkpoint_hook, module.CheckpointFunction
    module._checkpoint_hook, module.CheckpointFunction = lambda frame: nullcontext(), _Called
    try:
        yield
    finally:
        module._checkpoint_hook, module.CheckpointFunction = before


class _Called:
    """In place of the reentrant kind's autograd.Function."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)
