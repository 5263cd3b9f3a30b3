"""Buffers that a forward changes, in place or by putting other tensors in their place."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fgcli.gradient.randomness import layers_again


class BufferState:
    """The buffers of a model as they are now.

    Args:
        model: the model.
        names: which of them; None: all.
    """

    def __init__(self, model: nn.Module, names: Collection[str] | None = None) -> None:
        self._kept: list[tuple[str, nn.Module, str, Tensor, Tensor]] = []
        for prefix, module in model.named_modules():
            for key, buffer in module._buffers.items():
                name = f"{prefix}.{key}".removeprefix(".")
                if buffer is not None and (names is None or name in names):
                    self._kept.append((name, module, key, buffer, buffer.detach().clone()))

    def changed(self) -> tuple[str, ...]:
        """Those that are another tensor, or have other values."""
        return tuple(
            name
            for name, module, key, buffer, before in self._kept
            if module._buffers[key] is not buffer or not torch.equal(buffer, before)
        )

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Within it the forward has copies, which a graph that it records may keep: nothing changes them later."""
        for _, module, key, buffer, _ in self._kept:
            module._buffers[key] = buffer.detach().clone()
        try:
            yield
        finally:
            for _, module, key, buffer, _ in self._kept:
                module._buffers[key] = buffer

    @torch.no_grad()
    def restore(self) -> None:
        """Bring them back."""
        for _, module, key, buffer, before in self._kept:
            module._buffers[key] = buffer
            buffer.copy_(before)


def state_of(model: nn.Module, buffers: Collection[str] | None, device: torch.device) -> Callable[[], None]:
    """What brings torch's generators, and the buffers of these names (None: all), back to where they are now."""
    again, kept = layers_again(device), BufferState(model, buffers)

    def back() -> None:
        again()
        kept.restore()

    return back


@contextmanager
def untouched(model: nn.Module, device: torch.device) -> Iterator[Callable[[], None]]:
    """Afterwards torch's generators and all buffers are as before. It gives what brings them back within it, too."""
    back = state_of(model, None, device)
    try:
        yield back
    finally:
        back()
