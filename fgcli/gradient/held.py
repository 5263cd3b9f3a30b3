"""What a call holds of tensors as it goes on, and what it would hold of more samples.

torch tells neither on the CPU. Here storages are counted as they come and go, on any device. Of two runs with few
samples, each operation's tensors are a line in the number of samples: constants and samples' own apart, the most that
is held with any number of samples follows.
"""

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Held(TorchDispatchMode):
    """Bytes of the storages that are made within it and still there, noted whenever one more is."""

    def __init__(self, handed: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.bytes, self.handed = 0, handed
        self.after_each: list[tuple[int, int]] = []
        """Of all, and of `handed`, after every operation that made a storage."""
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {id(storage) for storage in _storages((args, kwargs))}
        outputs = func(*args, **(kwargs or {}))
        made = False
        for storage in _storages(outputs):
            if id(storage) not in before and id(storage) not in self._known:
                made = True
                self._note(storage)
        # A sum that sparse gradients are added to is handed over at once; of other gradients each part makes its own.
        if made and func is not torch.ops.aten._to_dense.default:
            self.after_each.append((self.bytes, sum(map(_bytes_of, self.handed.values()))))
        return outputs

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        self.bytes += size

        def gone() -> None:
            del self._known[key]
            self.bytes -= size

        self._known[key] = weakref.finalize(storage, gone)


def _bytes_of(value: Tensor) -> int:
    """Of a tensor, or of the numbers and indices that a sparse one holds."""
    return value._values().nbytes + value._indices().nbytes if value.is_sparse else value.nbytes


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    """Of the tensors among the values; what sparse ones are made of is seen by itself."""
    tensors = (one for one in tree_leaves(values) if isinstance(one, Tensor) and one.layout == torch.strided)
    return (one.untyped_storage() for one in tensors)


@dataclass(frozen=True)
class Growth:
    """What a call holds after each operation that makes a tensor, as a line in the number of samples."""

    at: tuple[int, int]
    """The numbers of samples of two runs."""
    held: tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]
    """Bytes after each of those operations: of all, and of what it has handed over by then."""

    def handed(self, samples: int) -> int:
        """Bytes of all that it hands over, of so many samples."""
        (n, m), (few, more) = self.at, (each[-1][1] if each else 0 for each in self.held)
        return few + (more - few) * (samples - n) // (m - n)

    def most(self, samples: int, handed: int | None = None) -> int:
        """Bytes that are held at the peak with so many samples; `handed`: where all that it hands over is there before,
        and takes so many."""
        (n, m), (few, more) = self.at, self.held

        def total(one: tuple[int, int]) -> int:
            return one[0] if handed is None else one[0] - one[1] + handed

        if len(few) != len(more):  # the call takes another way with another number: all grows with samples
            return max(map(total, more), default=0) * max(samples, m) // m
        lines = ((total(a), total(b)) for a, b in zip(few, more, strict=True))
        return max((a + (b - a) * (samples - n) // (m - n) for a, b in lines), default=0)


def growth(call: Callable[[int, dict[str, Tensor]], object], at: tuple[int, int] = (2, 3)) -> Growth:
    """Run `call` with two numbers of samples, and what it hands over its results in."""
    found = []
    for samples in at:
        handed: dict[str, Tensor] = {}
        collects = gc.isenabled()
        gc.disable()  # what it frees would be freed at another moment each time
        try:
            with Held(handed) as held:
                call(samples, handed)
        finally:
            if collects:
                gc.enable()
        found.append(held.after_each)
    return Growth(at, (found[0], found[1]))
