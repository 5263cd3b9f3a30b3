"""Noise of weights: its mean, covariance and squared norm in closed form, and what it is redrawn from."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.options import FzooOptions, SpsaOptions, WeightNoiseOptions, WeightPerturbationOptions
from fgcli.methods.weight_noise import WeightNoise

M, N = 5, 7
G = torch.randn(M, N, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BIAS = 0.05
"""Of the mean, six standard errors off in the number of draws that is taken."""


def noise(kind: str, tangents: Tangents | None = None, **options: Any) -> WeightNoise:
    return WeightNoise(WeightNoiseOptions(noise=kind, **options), tangents or Tangents())  # type: ignore[arg-type]


def estimates(one: WeightNoise, number: int, *, steps: int = 1) -> Tensor:
    """⟨G, z⟩ z of so many draws [number, M, N], spread over steps."""
    parts = [one.draw(Streams(1).at(step), "w", range(number // steps), G) for step in range(steps)]
    z = torch.cat(parts)
    return (z * G).sum((1, 2)).view(-1, 1, 1) * z


def z_score(values: Tensor, expected: float) -> float:
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))


def enough(spread_over_mean: float) -> int:
    return math.ceil((6 * spread_over_mean / BIAS) ** 2)


def test_low_rank_noise_is_unbiased_and_its_second_moment_that_of_rank_r() -> None:
    """E‖δz‖² = ((r - 1)(mn + 2) + (m + 2)(n + 2)) / r ‖G‖²: by Wick's theorem, (mn + 2) ‖G‖² for r to infinity."""
    square, rank = float(G.square().sum()), 2
    pilot = (estimates(noise("low-rank", rank=rank), 2000) * G).sum((1, 2))
    found = estimates(noise("low-rank", rank=rank), enough(float(pilot.std()) / square))
    assert abs(z_score((found * G).sum((1, 2)), square)) < 4
    squares = found.square().sum((1, 2))
    assert abs(z_score(squares, ((rank - 1) * (M * N + 2) + (M + 2) * (N + 2)) / rank * square)) < 4
    assert z_score(squares, (M * N + 2) * square) > 6  # which the test tells from it
    z = noise("low-rank", rank=1).draw(Streams(1).at(0), "w", range(3), G)
    assert torch.linalg.matrix_rank(z).tolist() == [1, 1, 1]


def test_noise_of_a_subspace_is_that_of_its_projector() -> None:
    """E[δz] = s² U UᵀG V Vᵀ, E‖δz‖² = s⁴ (r² + 2) ‖UᵀG V‖², s² = mn / r²."""
    rank, scale = 2, M * N / 4
    one = noise("subspace", rank=rank, redraw=10)
    z = one.draw(Streams(1).at(0), "w", range(50), G)
    u, _, vh = torch.linalg.svd(z[0])
    u, v = u[:, :rank], vh[:rank].T
    torch.testing.assert_close(u @ (u.T @ z) @ v @ v.T, z)  # all of one space
    inner = u.T @ G @ v
    found = estimates(one, 20_000)
    along = (u @ inner @ v.T / inner.norm()).expand(len(found), -1, -1)
    assert abs(z_score((found * along).sum((1, 2)), float(scale * inner.norm()))) < 4
    assert abs(z_score(found.square().sum((1, 2)), float(scale**2 * (rank**2 + 2) * inner.square().sum()))) < 4


@pytest.mark.parametrize(("kind", "options"), [("subspace", {"rank": 3}), ("sparse", {"density": 0.5})])
def test_over_redraws_it_is_unbiased(kind: str, options: dict[str, Any]) -> None:
    one = noise(kind, **options)
    found = estimates(one, 24_000, steps=1_500)
    by_step = (found * G).sum((1, 2)).view(1_500, -1).mean(1)
    assert abs(z_score(by_step, float(G.square().sum()))) < 4
    assert float(by_step.std()) / math.sqrt(len(by_step)) < BIAS * float(G.square().sum())


def test_sparse_noise_is_full_noise_in_a_share_of_the_entries() -> None:
    one, full = noise("sparse", density=0.25), noise("full")
    z, whole = (some.draw(Streams(1).at(0), "w", range(5), torch.zeros(40, 50)) for some in (one, full))
    kept = z != 0
    assert torch.equal(kept[0], kept[4])
    torch.testing.assert_close(z[kept], 2 * whole[kept])
    assert abs(float(kept[0].float().mean()) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 2000)


@pytest.mark.parametrize(("kind", "options"), [("subspace", {"rank": 2}), ("sparse", {})])
def test_it_is_redrawn_every_so_many_steps(kind: str, options: dict[str, Any]) -> None:
    one, like = noise(kind, redraw=4, **options), torch.zeros(6, 8)

    def support(step: int) -> Tensor:
        z = one.draw(Streams(1).at(step), "w", range(1), like)[0]
        return (z != 0).float() if kind == "sparse" else torch.linalg.pinv(z) @ z

    torch.testing.assert_close(support(4), support(7), atol=1e-4, rtol=0)
    assert not torch.allclose(support(7), support(8), atol=1e-2)
    assert not torch.equal(*(one.draw(Streams(1).at(step), "w", range(1), like) for step in (4, 5)))


def test_other_axes_are_taken_as_columns_and_parameters_of_one_axis_have_full_noise() -> None:
    one = noise("low-rank", rank=1)
    z = one.draw(Streams(1).at(0), "w", range(1), torch.zeros(4, 3, 2, 2))[0]
    assert int(torch.linalg.matrix_rank(z.flatten(1))) == 1
    bias = one.draw(Streams(1).at(0), "b", range(2), torch.zeros(9))
    assert torch.equal(bias, Tangents().noise(Streams(1).at(0), "weight", "b", range(2), (9,), torch.zeros(9)))


def test_full_noise_is_what_weight_perturbation_has_always_drawn() -> None:
    drawn = WeightNoise(WeightNoiseOptions(), Tangents()).draw(Streams(3).at(7), "w", range(2), G)
    assert torch.equal(drawn[0], Streams(3).at(7).normal("weight", "w", (M, N), G))


def test_orthogonal_directions_are_of_full_noise() -> None:
    with pytest.raises(ValueError, match="noise is low-rank; combine orthogonal makes its own of full noise"):
        WeightPerturbationOptions(noise="low-rank", combine="orthogonal", tangents=2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 4}, "rank is 4; it is of noise low-rank or subspace: set noise, or leave rank out"),
        ({"noise": "low-rank", "redraw": 5}, "redraw is 5; it is of noise subspace or sparse"),
        ({"noise": "subspace", "density": 0.5}, "density is 0.5; it is of noise sparse"),
    ],
)
@pytest.mark.parametrize("schema", [WeightPerturbationOptions, SpsaOptions, FzooOptions])
def test_options_of_another_noise_are_refused(schema: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schema(**options)
