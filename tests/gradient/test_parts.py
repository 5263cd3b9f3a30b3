"""Which samples of a batch are taken together."""

import pytest
import torch
from networks import chain

from fgcli.gradient.driven_site import DrivenSite
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.parts import parts_of
from fgcli.gradient.sites import Site
from fgcli.gradient.tangents import Tangents

MODEL = chain(4, 3)


@pytest.mark.parametrize(
    ("samples", "size", "lengths"),
    [(51, 51, [51]), (51, 50, [16, 35]), (51, 1, [16, 16, 19]), (100, 40, [16, 32, 16, 36]), (64, 70, [64])],
)
def test_all_parts_but_the_last_have_a_multiple_of_what_is_drawn_at_once(
    samples: int, size: int, lengths: list[int]
) -> None:
    site = DrivenSite(Site("0", MODEL[0], (3,)), Isotropic())  # pyright: ignore[reportArgumentType]
    inputs = torch.zeros(samples, 4, dtype=torch.float64)
    parts = parts_of(MODEL, inputs, size, [site], Tangents())
    assert [part.stop - part.start for part in parts] == lengths
    assert [part.start for part in parts] == [0, *(part.stop for part in parts[:-1])]
    assert parts[-1].stop == samples
