"""Dropout of a part of a batch as the whole batch has it.

What a whole batch draws is drawn once, each part takes its own samples' of it: torch's streams cannot be entered in the
middle. It is held as a byte a number until the last part, where backpropagation holds a number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fgcli.gradient.by_hand import attention, dropout, times
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import default_generators, layers_again
from fgcli.gradient.sites import Network

BY_ROWS = {dropout, attention}
"""What may draw, and whose draws for a part are known: those of rows of its first argument."""


Draws = Callable[[slice], AbstractContextManager[Any]]
"""By the rows of a part, a context in which its layers draw what they draw for the whole batch, from its start on."""


class DrawsOfWhole(TorchFunctionMode):
    """Within it operations on a part's samples draw what they draw for the whole batch.

    Args:
        part: the samples that they are given.
        samples: of the whole batch.
        known: what the batch has drawn, by the state of torch's generators before, with the state after it.
    """

    def __init__(self, part: slice, samples: int, known: dict[Any, tuple[Tensor, Callable[[], None]]]) -> None:
        super().__init__()
        self.part, self.samples, self.known = part, samples, known

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.dropout:
            return self._dropout(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _dropout(self, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or not p:
            return F.dropout(input, p, training, inplace)
        shares = self._drawn(input, p, inplace=inplace)
        return input.mul_(shares) if inplace else times(input, shares)

    def _drawn(self, like: Tensor, p: float, *, inplace: bool) -> Tensor:
        """What F.dropout makes of ones: the part's rows of it. A device may draw otherwise in place."""
        shape = like.shape
        each = shape[0] // (self.part.stop - self.part.start)
        states = (bytes(one.get_state().numpy()) for one in default_generators(like.device))
        key = (tuple(states), shape[1:], p, like.dtype)
        if key not in self.known:
            whole = (self.samples * each, *shape[1:])
            # Numbers are drawn in the order in which they are in memory.
            order = sorted(range(len(shape)), key=lambda axis: (shape[0] > 1 or axis > 0, -like.stride(axis)))
            back = sorted(range(len(shape)), key=lambda axis: order[axis])
            ones = torch.ones((), dtype=like.dtype, device=like.device).expand([whole[axis] for axis in order])
            if inplace or like.device.type != "cpu":  # a GPU draws in another order for numbers that share memory
                ones = ones.contiguous()
            kept = (F.dropout(ones, p, inplace=inplace) != 0).permute(back)
            self.known[key] = kept, layers_again(like.device)
        kept, after = self.known[key]
        after()
        own = kept[self.part.start * each : self.part.stop * each].to(like.dtype)
        return own.div_(1 - p) if p < 1 else own


_PART: ContextVar[DrawsOfWhole | None] = ContextVar("part", default=None)


def of_part(func: Any) -> AbstractContextManager[Any]:
    """A context in which this operation draws for the part of a batch that the present forward is of."""
    present = _PART.get() if func in BY_ROWS else None
    return nullcontext() if present is None else present


def draws_of_parts(network: Network, batch: Batch, parts: Sequence[slice]) -> Draws:
    """The context of each part of a batch."""
    if len(parts) == 1 or not network.drawing:
        return lambda _: nullcontext()
    again, samples = layers_again(batch.device), batch.size
    known: dict[Any, tuple[Tensor, Callable[[], None]]] = {}

    @contextmanager
    def draws(part: slice) -> Iterator[None]:
        again()
        token = _PART.set(DrawsOfWhole(part, samples, known))
        try:
            yield
        finally:
            _PART.reset(token)

    return draws
