"""Streams are named by keys, not by how many draws came before."""

import pytest
import torch

from fgcli.gradient.randomness import DRAWN_AT_ONCE, ContinuedRng, Streams


def draw(seed: int = 1, purpose: str = "guess", step: int = 2, site: str = "a") -> list[float]:
    return torch.randn(4, generator=Streams(seed).generator(purpose, step, site)).tolist()


def test_a_key_draws_the_same_again_and_every_part_of_it_matters() -> None:
    assert draw() == draw()
    others = [draw(seed=2), draw(purpose="data"), draw(step=3), draw(site="b"), draw(seed=1 + 2**32)]
    assert all(other != draw() for other in others)


def test_ten_thousand_keys_give_ten_thousand_streams() -> None:
    firsts = {
        torch.randint(2**62, (1,), generator=Streams(0).generator("guess", step, site)).item()
        for step in range(2500)
        for site in "abcd"
    }
    assert len(firsts) == 10_000


def test_step_rng_is_the_stream_of_that_step() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    drawn = Streams(1).at(2).normal("guess", "a", (4,), like)
    assert drawn.dtype == torch.float64
    expected = torch.randn(4, generator=Streams(1).generator("guess", 2, "a"), dtype=torch.float64)
    assert torch.equal(drawn, expected)


def test_layers_draw_from_their_own_stream_and_leave_no_trace() -> None:
    def mask(step: int) -> list[float]:
        with Streams(1).for_layers("layers", step, torch.device("cpu")):
            return torch.nn.functional.dropout(torch.ones(64)).tolist()

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = mask(2)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert mask(2) == first
    assert mask(3) != first


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("last", [DRAWN_AT_ONCE, DRAWN_AT_ONCE + 5])
def test_streams_go_on_from_part_to_part_as_one_draw(dtype: torch.dtype, last: int) -> None:
    check_draws(dtype, [DRAWN_AT_ONCE, 3 * DRAWN_AT_ONCE, last])


@pytest.mark.parametrize("sizes", [[1, 2, 1], [16, 3], [7, 16, 16]])
def test_parts_that_no_block_ends_with_draw_their_own_of_the_batch(sizes: list[int]) -> None:
    check_draws(torch.float64, sizes)


def check_draws(dtype: torch.dtype, sizes: list[int]) -> None:
    """Parts of these sizes draw what the batch does, twice over."""
    ends = [sum(sizes[: number + 1]) for number in range(len(sizes))]
    rng = ContinuedRng(Streams(1), 2, [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)])
    whole, device = torch.empty(ends[-1], 3, dtype=dtype), torch.device("cpu")
    signs = Streams(1).at(2).signs("s", "a", (ends[-1], 3), device).values(dtype)
    assert set(signs.flatten().tolist()) == {1.0, -1.0}
    Streams(1).at(2).normal_(whole, "guess", "a")
    for size, end in zip(sizes, ends, strict=True):
        for _ in range(2):
            part = torch.empty(size, 3, dtype=dtype)
            rng.normal_(part, "guess", "a")
            assert torch.equal(part, whole[end - size : end])
            drawn = rng.signs("s", "a", (size, 3), device)
            assert torch.equal(drawn.values(dtype), signs[end - size : end])
            assert drawn.bits.numel() <= size * 3 // 8 + 2  # of the whole batch nothing is kept
        rng.advance(size)
