"""Backpropagation with activation checkpointing (Chen et al. 2016, arXiv:1604.06174): less memory, one more forward."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from fgcli.gradient.checks import ANY_METHOD, refuse
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.processes import ALONE, Processes
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.uses import call
from fgcli.methods.backprop import exact
from fgcli.methods.options import CheckpointOptions


class BackpropCheckpoint(Stateless):
    """The exact gradient of the mean loss. What a segment computes is dropped, and computed again on the way back.

    The segments are stretches of an nn.Sequential, and the direct children of any other model. A layer that keeps
    running statistics updates them twice.
    """

    def __init__(self, options: CheckpointOptions) -> None:
        self._segments, self.processes = options.segments, ALONE

    def split_over(self, processes: Processes) -> None:
        self.processes = processes

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, ANY_METHOD)
        self.processes.refuse_unsplittable(model, example)
        return Coverage(tuple(name for name, p in model.named_parameters() if p.requires_grad))

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        if isinstance(model, nn.Sequential) and isinstance(batch.inputs, Tensor):
            segments = min(self._segments or round(math.sqrt(len(model))), len(model))
            in_stretches = partial(checkpoint_sequential, model, max(1, segments), use_reentrant=False)
            return exact(model, lambda inputs: in_stretches(input=inputs), loss, batch, self.processes)
        with _checkpointed(list(model.children())):  # on the way back, too: checkpoints of the model's run it again
            return exact(model, partial(call, model), loss, batch, self.processes)


@contextmanager
def _checkpointed(modules: list[nn.Module]) -> Iterator[None]:
    """Each module's forward is checkpointed meanwhile."""

    def wrapped(forward: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: checkpoint(forward, *args, use_reentrant=False, **kwargs)

    try:
        for module in modules:
            module.forward = wrapped(module.forward)
        yield
    finally:
        for module in modules:
            del module.forward
