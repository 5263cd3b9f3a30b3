"""Which samples of a batch are taken together, and what they draw."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from fgcli.gradient.part_draws import DrawsOfWhole
from fgcli.gradient.parts import SumOfParts, parts_of
from fgcli.gradient.randomness import Streams


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


@pytest.mark.parametrize("rows", [12, 1_000])
def test_a_sum_of_sparse_and_dense_parts_is_that_of_dense_ones(rows: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def looked_up() -> torch.Tensor:
        ids = torch.randint(rows, (1, 4), generator=generator)
        values = torch.randn(4, 3, generator=generator, dtype=torch.double)
        return torch.sparse_coo_tensor(ids, values, (rows, 3), check_invariants=True)

    given = [
        [looked_up(), looked_up(), looked_up()],
        [looked_up(), torch.randn(rows, 3, generator=generator, dtype=torch.double), looked_up()],
        [torch.randn(rows, 3, generator=generator, dtype=torch.double), looked_up()],
    ]
    for some in given:
        gradients: dict[str, torch.Tensor] = {}
        summed = SumOfParts({}, Streams(0).at(0), parts_of(8, 8), gradients)
        expected = torch.zeros(rows, 3, dtype=torch.double)
        for share, one in zip((0.5, 0.25, 0.25), some, strict=False):
            expected += share * (one.to_dense() if one.is_sparse else one)
            summed.add({"table": one.clone()}, share)
        few = rows == 1_000 and all(one.is_sparse for one in some)
        assert gradients["table"].is_sparse == few
        found = summed.estimate(torch.zeros(8)).gradients["table"]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
