"""W̃⊥ held to a naive transcription of the paper, in float64, on ranks and masks of all kinds."""

import pytest
import torch
from masks import covariance, layer_below, map_of, masks, naive_top_k_projector, weight
from torch.utils._python_dispatch import TorchDispatchMode

from fgcli.gradient.guess import GuessMethod, Memory
from fgcli.methods.newton_schulz import newton_schulz
from fgcli.methods.options import NewtonSchulzOptions, OrthogonalBottomOptions, OrthogonalOptions
from fgcli.methods.orthogonal import OrthogonalBottom, orthogonal
from fgcli.methods.preconditioned import Preconditioned

WEIGHTS = {
    "square": weight(8, 8),
    "tall": weight(11, 7),
    "output": weight(4, 9),
    "rank-deficient": weight(8, 8, rank=3),
    "zero": weight(5, 6, rank=0),
}


@pytest.mark.parametrize("k", [1, 3, 6, "rank"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_svd_equals_the_naive_transcription(name: str, k: int | str) -> None:
    matrix = WEIGHTS[name]
    mask = masks(matrix.shape[1])
    found = covariance(orthogonal(OrthogonalOptions(k=k, solver="svd")), matrix, mask)  # type: ignore[arg-type]
    expected = naive_top_k_projector(matrix, mask, min(matrix.shape) if k == "rank" else int(k))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 12), (15, 10), (6, 12)])
@pytest.mark.parametrize("rank", [None, 5])
def test_ritz_over_the_whole_rank_is_the_projector_of_svd(shape: tuple[int, int], rank: int | None) -> None:
    """Where σ_k and σ_{k+1} are apart: by a factor of a thousand, three steps of the square are enough."""
    matrix, mask = weight(*shape, rank=rank, gap_at=3), masks(shape[1])
    options = OrthogonalOptions(k=3, solver="ritz", oversampling=9, power_steps=3)
    found = covariance(orthogonal(options), matrix, mask)
    torch.testing.assert_close(found, naive_top_k_projector(matrix, mask, 3), rtol=0, atol=1e-6)


def test_ritz_converges_where_the_gap_is_small() -> None:
    matrix, mask = weight(12, 12), masks(12)[[0, 4, 5, 6]]
    errors = []
    for steps in (0, 3, 30, 300):
        options = OrthogonalOptions(k=4, solver="ritz", oversampling=3, power_steps=steps)
        found = covariance(orthogonal(options), matrix, mask)
        errors.append(float((found - naive_top_k_projector(matrix, mask, 4)).norm()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[3] < 1e-6


@pytest.mark.parametrize("k", [2, 4, 6])
@pytest.mark.parametrize("name", ["square", "tall", "output"])
def test_shared_draws_the_projector_onto_the_masked_space_of_w(name: str, k: int) -> None:
    """With V the top-k right singular vectors of W (they are found where σ_k and σ_{k+1} are apart)."""
    matrix = weight(*WEIGHTS[name].shape, gap_at=min(k, *WEIGHTS[name].shape))
    mask = masks(matrix.shape[1])
    found = covariance(orthogonal(OrthogonalOptions(k=k, solver="shared")), matrix, mask)
    v = torch.linalg.svd(matrix, full_matrices=False).Vh[:k].T
    expected = torch.stack([naive_projector(torch.diag(row) @ v) for row in mask])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def naive_projector(columns: torch.Tensor) -> torch.Tensor:
    u, s, _ = torch.linalg.svd(columns, full_matrices=False)
    u = u[:, s > 1e-9]
    return u @ u.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("solver", ["ritz", "shared", "svd"])
@pytest.mark.parametrize("k", [1, 5, 50, "rank"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_every_solver_guesses_in_a_projector_of_the_right_rank(
    name: str, k: int | str, solver: str, dtype: torch.dtype
) -> None:
    """No crash, no NaN, within Im(W̃ᵀ), whatever the mask and the rank, in single precision too."""
    matrix = WEIGHTS[name]
    mask = masks(matrix.shape[1])
    method = orthogonal(OrthogonalOptions(k=k, solver=solver))  # type: ignore[arg-type]
    c = covariance(method, matrix.to(dtype), mask.to(dtype))
    assert c.isfinite().all()
    tolerance = 2e-3 if dtype == torch.float32 else 1e-7
    torch.testing.assert_close(c @ c, c, rtol=0, atol=tolerance)
    largest = min(matrix.shape) if isinstance(k, str) else min(k, *matrix.shape)
    rank = torch.stack([torch.linalg.matrix_rank(matrix @ torch.diag(row)) for row in mask])
    expected = rank.clamp_max(largest)
    if solver == "shared":  # the image of the tracked space under the mask may have a lower rank, never a higher
        assert (c.diagonal(dim1=1, dim2=2).sum(1).round() <= expected).all()
    else:
        assert c.diagonal(dim1=1, dim2=2).sum(1).round().tolist() == expected.tolist()
    image = naive_top_k_projector(matrix, mask, 99).to(dtype)
    torch.testing.assert_close(image @ c, c, rtol=0, atol=tolerance)


def test_bottom_takes_the_smallest_singular_values_zeros_among_them() -> None:
    matrix, mask = weight(9, 8), masks(8)
    found = covariance(OrthogonalBottom(OrthogonalBottomOptions(k=2)), matrix, mask)
    vh = torch.linalg.svd(matrix).Vh[-2:]
    torch.testing.assert_close(found[0], vh.T @ vh)  # all ones: W itself
    torch.testing.assert_close(found @ found, found)
    few = mask[3]  # three active units: the two smallest of eight singular values are 0, orthogonal to Im(W̃ᵀ)
    image = naive_top_k_projector(matrix, few.unsqueeze(0), 8)[0]
    torch.testing.assert_close(image @ found[3], torch.zeros(8, 8, dtype=torch.float64))


@pytest.mark.parametrize(("d_out", "d_in"), [(9, 8), (8, 8), (5, 8)])
def test_bottom_has_the_energy_of_the_smallest_singular_values_for_every_mask(d_out: int, d_in: int) -> None:
    """Which vectors belong to repeated zeros is free; ‖W̃A‖² and the rank are not. Five active units of eight leave
    three zeros, where an SVD is spared; six leave two, where it is not."""
    matrix = weight(d_out, d_in)
    mask = (torch.arange(d_in) < torch.arange(d_in + 1).unsqueeze(1)).double()
    found = covariance(OrthogonalBottom(OrthogonalBottomOptions(k=3)), matrix, mask)
    torch.testing.assert_close(found @ found, found)
    torch.testing.assert_close(found.diagonal(dim1=1, dim2=2).sum(1), torch.full((d_in + 1,), 3.0).double())
    jacobians = matrix * mask.unsqueeze(1)
    energy = (jacobians @ found @ jacobians.mT).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(energy, torch.linalg.svdvals(jacobians)[:, -3:].square().sum(1))


def test_tracked_space_follows_w_and_is_kept_between_refreshes() -> None:
    method = orthogonal(OrthogonalOptions(k=2, solver="shared", refresh=5))
    memory, moved = Memory(), weight(9, 9, gap_at=2, seed=3)
    method.prepare(layer_below(weight(9, 9, gap_at=2)), memory)
    kept = memory["left"]
    method.prepare(layer_below(moved, step=4), memory)
    assert memory["left"] is kept
    method.prepare(layer_below(moved, step=5), memory)
    exact = torch.linalg.svd(weight(9, 9, gap_at=2, seed=3)).U[:, :2]
    torch.testing.assert_close(memory["left"] @ memory["left"].T, exact @ exact.T, rtol=0, atol=1e-5)


def test_whole_rank_is_looked_at_again_at_every_refresh() -> None:
    method = orthogonal(OrthogonalOptions(k="rank", refresh=5))
    memory = Memory()
    assert method.prepare(layer_below(weight(8, 8)), memory) is None
    for step, still_known in ((4, True), (5, False)):
        assert (method.prepare(layer_below(weight(8, 8, rank=3), step=step), memory) is None) is still_known


@pytest.mark.parametrize("solver", ["ritz", "shared"])
def test_whole_rank_counts_units_of_negative_slope(solver: str) -> None:
    """GELU's slope is below 0 for some inputs: such a unit is in Im(W̃ᵀ) as much as any other."""
    slope = torch.tensor([[1.0, -0.1, 0.0, 0.5, -2.0, 0.0]], dtype=torch.float64)
    found = covariance(orthogonal(OrthogonalOptions(k="rank", solver=solver)), weight(6, 6), slope)  # type: ignore[arg-type]
    torch.testing.assert_close(found[0], torch.diag((slope[0] != 0).double()))


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20])
@pytest.mark.parametrize("solver", ["ritz", "shared", "svd"])
@pytest.mark.parametrize("k", [3, "rank"])
def test_the_scale_of_the_weight_does_not_matter(k: int | str, solver: str, scale: float) -> None:
    mask = masks(9).float()
    for matrix in (weight(4, 9).float(), weight(9, 9).float()):
        method = orthogonal(OrthogonalOptions(k=k, solver=solver))  # type: ignore[arg-type]
        found, expected = covariance(method, scale * matrix, mask), covariance(method, matrix, mask)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return made


@pytest.mark.parametrize(
    ("method", "d_out"),
    [
        (orthogonal(OrthogonalOptions()), 64),
        (orthogonal(OrthogonalOptions(solver="shared")), 64),
        (orthogonal(OrthogonalOptions(k="rank")), 64),
        (orthogonal(OrthogonalOptions(k="rank")), 10),
        (newton_schulz(NewtonSchulzOptions()), 64),
        (Preconditioned(), 10),
    ],
)
def test_nothing_of_size_batch_d_d_is_made(method: GuessMethod, d_out: int) -> None:
    batch, d = 200, 64
    matrix, mask = weight(d_out, d).float(), masks(d)[torch.arange(batch) % 7].float()
    z = torch.ones(batch, map_of(method, matrix, mask).noise_dim)
    with Largest() as largest:
        map_of(method, matrix, mask).map(z)
    assert batch * d <= largest.elements <= batch * d * d // 8
