"""Which samples of a batch are taken together."""

import pytest

from fgcli.gradient.parts import parts_of


@pytest.mark.parametrize(
    ("samples", "size", "lengths"),
    [(51, 51, [51]), (51, 50, [16, 35]), (51, 1, [16, 16, 19]), (100, 40, [16, 32, 16, 36]), (64, 70, [64])],
)
def test_all_parts_but_the_last_have_a_multiple_of_what_is_drawn_at_once(
    samples: int, size: int, lengths: list[int]
) -> None:
    parts = parts_of(samples, size)
    assert [part.stop - part.start for part in parts] == lengths
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == samples
