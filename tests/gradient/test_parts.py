"""Which samples of a batch are taken together, and what they draw."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from fgcli.gradient.part_draws import DrawsOfWhole
from fgcli.gradient.parts import parts_of


@pytest.mark.parametrize(
    ("samples", "size", "lengths"),
    [
        (51, 51, [51]),
        (51, 50, [32, 19]),
        (51, 17, [16, 16, 16, 3]),
        (100, 40, [16, 32, 32, 20]),
        (64, 70, [64]),
        (16, 5, [4, 4, 4, 4]),
    ],
)
def test_parts_are_alike_and_begin_at_a_multiple_of_what_is_drawn_at_once_where_they_can(
    samples: int, size: int, lengths: list[int]
) -> None:
    parts = parts_of(samples, size)
    assert [part.stop - part.start for part in parts] == lengths
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == samples


def test_a_gpu_drops_of_what_is_dense_as_a_layer_gives_it() -> None:
    """Its kernel draws in another order for a tensor whose numbers share memory."""

    class Dropped(TorchFunctionMode):
        dense = False

        def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
            if func is F.dropout:
                self.dense = args[0].is_contiguous()
            return func(*args, **(kwargs or {}))

    with Dropped() as seen, DrawsOfWhole(slice(0, 2), 6, {}):
        shares = F.dropout(torch.ones(2, 5, device="meta"), 0.4)
    assert seen.dense
    assert shares.shape == (2, 5)
