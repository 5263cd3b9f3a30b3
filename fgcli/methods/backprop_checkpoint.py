"""Backpropagation with activation checkpointing (Chen et al. 2016, arXiv:1604.06174): less memory, one more forward."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fgcli.gradient.buffers import BufferState, untouched
from fgcli.gradient.checks import ANY_METHOD, refuse
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.look import on_few
from fgcli.gradient.nested import copied, first_tensor, leaves, mapped
from fgcli.gradient.plain import plain_checkpoints
from fgcli.gradient.processes import TakesRows
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.uses import call
from fgcli.methods.backprop import exact
from fgcli.methods.options import CheckpointOptions


class BackpropCheckpoint(TakesRows, Stateless):
    """The exact gradient of the mean loss. What a segment computes is dropped, and computed again on the way back.

    The segments are stretches of an nn.Sequential; of any other model the items of its lists of blocks, as a
    transformer has, and the modules beside them. On the way back each sees the weights and the buffers that it saw on
    the way forward, and changes no buffer.
    """

    def __init__(self, options: CheckpointOptions) -> None:
        self._segments = options.segments
        self._buffers: tuple[str, ...] = ()
        """Those that a forward changes."""
        self._in_place: dict[nn.Module, bool] = {}
        """Whether a segment changes what it is given; by its first module, once it has run."""

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, ANY_METHOD)
        self.processes.refuse_unsplittable(model, example)
        self._buffers = _changed(model, example)
        return Coverage(tuple(name for name, p in model.named_parameters() if p.requires_grad))

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        changed = {id(model.get_buffer(name)) for name in self._buffers}
        if isinstance(model, nn.Sequential) and isinstance(batch.inputs, Tensor):
            stretches = _stretches(model, self._segments or round(math.sqrt(len(model))))

            def forward(x: Any) -> Any:
                for stretch in stretches[:-1]:
                    x = checkpoint(_AsBefore(stretch, stretch, changed, self._in_place), x, use_reentrant=False)
                return stretches[-1](x)

            return exact(model, forward, loss, batch, self.processes)
        with self._checkpointed(_segments(model), changed):  # on the way back, too: the model's own run it again
            return exact(model, partial(call, model), loss, batch, self.processes)

    @contextmanager
    def _checkpointed(self, modules: list[nn.Module], changed: set[int]) -> Iterator[None]:
        """Each module's forward is checkpointed meanwhile."""

        def wrapped(module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: checkpoint(
                _AsBefore(module, forward, changed, self._in_place), *args, use_reentrant=False, **kwargs
            )

        try:
            for module in modules:
                module.forward = wrapped(module, module.forward)
            yield
        finally:
            for module in modules:
                del module.forward


def _changed(model: nn.Module, example: Any) -> tuple[str, ...]:
    """The buffers that a forward changes. They are brought back, and torch's generators."""
    buffers = BufferState(model)
    with untouched(model, first_tensor(example).device), torch.no_grad(), plain_checkpoints():
        on_few(partial(call, model), example)
        return buffers.changed()


def _stretches(model: nn.Sequential, number: int) -> list[nn.Module]:
    """So many stretches of equal length, the last one longer where they do not come out even."""
    number = max(1, min(number, len(model)))
    size = len(model) // number
    return [model[i * size : (i + 1) * size if i < number - 1 else len(model)] for i in range(number)]


def _segments(module: nn.Module) -> list[nn.Module]:
    """The items of the lists of blocks that are nearest to the root, and the modules that hold no such list."""
    lists, found = (nn.ModuleList, nn.Sequential), []
    for child in module.children():
        if isinstance(child, lists) and any(list(item.children()) for item in child):
            found += list(child)
        elif not isinstance(child, lists) and any(isinstance(one, lists) for one in child.modules()):
            found += _segments(child)
        else:
            found.append(child)
    return list(dict.fromkeys(found))


class _AsBefore:
    """A module's forward, which in further calls sees the inputs, weights and buffers of the first.

    Args:
        module: the module.
        forward: its forward.
        changed: the ids of buffers that a forward changes.
        in_place: what is known of segments that change what they are given; until then, and of such, it is a copy.
    """

    def __init__(
        self, module: nn.Module, forward: Callable[..., Any], changed: set[int], in_place: dict[nn.Module, bool]
    ) -> None:
        self.module, self.forward, self.changed, self.in_place = module, forward, changed, in_place
        self.first = next(module.children(), module)
        self.copies = in_place.get(self.first, True)
        self._before: list[tuple[dict[str, Any], str, Tensor, bool]] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.copies:
            args, kwargs = mapped(copied, args), mapped(copied, kwargs)
        if self._before is None:
            self._before = list(self._seen())
            given = leaves((args, kwargs))
            versions = [one._version for one in given]
            outputs = self.forward(*args, **kwargs)
            changes = versions != [one._version for one in given]
            if changes and not self.copies:
                raise ModelRefused(
                    f"a {type(self.first).__name__} changes its input in place, at some steps alone: use backprop"
                )
            self.in_place[self.first] = self.in_place.get(self.first, False) or changes
            return outputs
        now = [(owner, key, owner[key]) for owner, key, _, _ in self._before]
        try:
            for owner, key, tensor, changes in self._before:
                owner[key] = tensor.clone() if changes else tensor
            return self.forward(*args, **kwargs)
        finally:  # also where the checkpoint ends it, as nothing more is needed
            for owner, key, tensor in now:
                owner[key] = tensor

    def _seen(self) -> Iterator[tuple[dict[str, Any], str, Tensor, bool]]:
        for module in self.module.modules():
            for owner in (module._parameters, module._buffers):
                for key, tensor in owner.items():
                    if tensor is not None:
                        changes = id(tensor) in self.changed
                        yield owner, key, tensor.clone() if changes else tensor, changes
