"""W̃⊥-NS with `coeffs=sign-cut`: its covariance is W̃⊥'s projector wherever σ_k and σ_{k+1} differ by 5 %."""

from functools import cache
from typing import Any

import pytest
import torch
from masks import covariance, masks, naive_top_k_projector, weight
from torch import Tensor, nn

from fgcli.methods.newton_schulz import newton_schulz
from fgcli.methods.options import NewtonSchulzOptions

WEIGHTS = {
    "square": weight(8, 8),
    "tall": weight(11, 7),
    "output": weight(4, 9),
    "rank-deficient": weight(8, 8, rank=3),
    "zero": weight(5, 6, rank=0),
    "wide": weight(40, 60),
}


def sign_cut(solver: str, k: int, oversampling: int = 60) -> Any:
    return newton_schulz(NewtonSchulzOptions(k=k, solver=solver, oversampling=oversampling, coeffs="sign-cut"))  # type: ignore[arg-type]


def apart(matrix: Tensor, mask: Tensor, k: int) -> Tensor:
    """Which samples' σ_{k+1} is at most 0.95 σ_k."""
    s = nn.functional.pad(torch.linalg.svdvals(matrix * mask.unsqueeze(1)), (0, k + 1))
    s = torch.where(s > 1e-9 * s[:, :1], s, 0)
    return s[:, k] <= 0.95 * s[:, k - 1]


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("solver", ["batched", "gram", "krylov"])
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_covariance_is_the_projector(name: str, solver: str, k: int) -> None:
    """`gram` and `krylov` hold the whole rank here."""
    matrix = WEIGHTS[name]
    mask = masks(matrix.shape[1])
    exact, known = naive_top_k_projector(matrix, mask, k), apart(matrix, mask, k)
    assert int(known.sum()) >= 2
    for dtype, within in ((torch.float64, 2e-6), (torch.float32, 1e-3)):
        found = covariance(sign_cut(solver, k), matrix.to(dtype), mask.to(dtype)).double()
        torch.testing.assert_close(found[known], exact[known], rtol=0, atol=within)
        assert float(torch.linalg.eigvalsh(found).max()) < 1 + within  # of all, those with no gap too


@cache
def trained() -> tuple[Tensor, Tensor]:
    """A hidden weight after training, and the masks of its input's units."""
    torch.manual_seed(0)
    first, hidden = (nn.Linear(n, 32).double() for n in (20, 32))
    model = nn.Sequential(first, nn.ReLU(), hidden, nn.ReLU(), nn.Linear(32, 4).double())
    x = torch.randn(200, 20).double()
    y = (x[:, :4] * x[:, 4:8]).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return hidden.weight.detach(), (first(x) > 0).double().detach()


def test_on_trained_weights() -> None:
    matrix, mask = trained()
    for k in (3, 10):
        known = apart(matrix, mask, k)
        assert int(known.sum()) > 50
        found = covariance(sign_cut("gram", k), matrix, mask)
        exact = naive_top_k_projector(matrix, mask, k)
        torch.testing.assert_close(found[known], exact[known], rtol=0, atol=1e-4)
        table = covariance(newton_schulz(NewtonSchulzOptions(k=k, oversampling=60)), matrix, mask)
        off = [(one - exact).flatten(1).norm(dim=1)[known].mean() for one in (found, table)]
        assert off[1] > 1e4 * off[0]


def test_the_scale_of_the_weight_does_not_matter() -> None:
    matrix, mask = weight(8, 9).float(), masks(9).float()
    expected = covariance(sign_cut("gram", 3), matrix, mask)
    for scale in (1e-30, 1e20):
        torch.testing.assert_close(covariance(sign_cut("gram", 3), scale * matrix, mask), expected, rtol=0, atol=1e-4)


def test_the_name_is_what_a_run_records() -> None:
    assert not hasattr(sign_cut("gram", 3), "settled_options")  # nothing is left to the machine
    assert newton_schulz(NewtonSchulzOptions(coeffs="muon")).settled_options() == {"coeffs": "muon"}  # type: ignore[attr-defined]
    assert newton_schulz(NewtonSchulzOptions(coeffs="paper")).settled_options() == {"coeffs": "shipped"}  # type: ignore[attr-defined]


def test_an_orthogonaliser_keeps_what_lies_below_the_cut() -> None:
    matrix, mask = weight(8, 8, gap_at=3), torch.ones(1, 8, dtype=torch.float64)
    kept = {}
    for coeffs in ("paper", "sign-cut", "polar-express"):
        method = newton_schulz(NewtonSchulzOptions(k=2, oversampling=8, coeffs=coeffs))
        kept[coeffs] = torch.linalg.eigvalsh(covariance(method, matrix, mask)[0])
    assert int((kept["polar-express"] > 0.7).sum()) >= 3
    assert int((kept["sign-cut"] > 0.7).sum()) == 2
