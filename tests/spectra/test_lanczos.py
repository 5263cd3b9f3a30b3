import pytest
import torch
from torch import Tensor

from fgcli.spectra.lanczos import leading_singular, relative_step


def random(rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rows", "columns", "k"),
    [
        (128, 128, 10),
        (64, 128, 1),
        (128, 64, 63),
        (40, 128, 10),
        (20, 100, 5),
        (21, 100, 5),
        (41, 100, 10),
        (10, 64, 25),
        (1, 9, 1),
    ],
)
def test_equals_the_dense_singular_values(rows: int, columns: int, k: int, dtype: torch.dtype) -> None:
    weight = random(rows, columns).to(dtype)
    exact = torch.linalg.svdvals(weight.double())
    found = leading_singular(weight, k)
    torch.testing.assert_close(found, exact[:k], rtol=1e-12, atol=0)
    between = float(torch.cat([exact, torch.zeros(k + 1, dtype=torch.float64)])[k - 1 : k + 1].mean())
    assert relative_step(leading_singular(weight, k + 1), k) == pytest.approx(between / float(exact[0]), rel=1e-12)


@pytest.mark.parametrize("k", [1, 10, 63, 64, 100])
def test_repeated_and_vanishing_singular_values(k: int) -> None:
    masked = torch.diag((torch.arange(64) < 5).double())
    found = leading_singular(masked, k)
    torch.testing.assert_close(found, (torch.arange(min(k, 64)) < 5).double(), rtol=0, atol=1e-12)


def test_k_above_the_rank() -> None:
    weight = random(80, 3) @ random(3, 90)
    found = leading_singular(weight, 10)
    torch.testing.assert_close(found[:3], torch.linalg.svdvals(weight)[:3], rtol=1e-12, atol=0)
    assert 0 <= relative_step(found, 9) < 1e-7
    assert relative_step(found, 3) == pytest.approx(float(found[2] / found[0]) / 2)


@pytest.mark.parametrize("shape", [(64, 64), (3, 4)])
def test_zero_matrix(shape: tuple[int, int]) -> None:
    found = leading_singular(torch.zeros(shape), 2)
    assert found.tolist() == [0.0, 0.0]
    assert relative_step(found, 1) == 0.0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_extreme_scales(scale: float) -> None:
    weight = random(64, 48)
    exact = torch.linalg.svdvals(weight)[:3] * scale
    torch.testing.assert_close(leading_singular(weight * scale, 3), exact, rtol=1e-12, atol=0)


def test_same_bits_each_time_and_input_left_alone() -> None:
    weight = random(80, 80)
    kept = weight.clone()
    assert torch.equal(leading_singular(weight, 7), leading_singular(weight, 7))
    assert torch.equal(weight, kept)


def test_what_has_no_singular_values_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        leading_singular(torch.full((3, 3), float("nan")), 1)
