"""Which samples of a batch are taken together."""

import pytest

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
