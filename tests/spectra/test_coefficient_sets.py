"""The named sets, held to what their authors state."""

import math

import pytest
import torch

from fgcli.errors import UsageError
from fgcli.spectra.coefficient_sets import ORTHOGONALISERS, named_steps, orthogonaliser
from fgcli.spectra.coefficients import instability
from fgcli.spectra.sign import sign_quintics

PUBLISHED = [  # the list in the paper's Algorithm 1, before the safety factor
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
]


@pytest.mark.parametrize("name", ORTHOGONALISERS)
@pytest.mark.parametrize("applications", [1, 5, 32])
def test_all_are_stable_and_odd_series_that_grow(name: str, applications: int) -> None:
    polynomial = orthogonaliser(name, applications)
    if applications > 1:  # one quintic alone of those for wide intervals reaches 2
        assert instability(polynomial) is None
    assert polynomial.applications == applications
    assert polynomial.coefficients[0][0] > 1


def test_polar_express_is_the_published_list() -> None:
    rows = orthogonaliser("polar-express", 8).coefficients
    for row, published in zip(rows, PUBLISHED, strict=False):
        unsafe = [one * 1.01**power for one, power in zip(row, (1, 3, 5), strict=True)]
        assert unsafe == pytest.approx(published, rel=1e-8)


@pytest.mark.parametrize(("name", "order"), [("bjorck-bowie", 2), ("kovarik", 3)])
def test_the_series_is_that_of_the_inverse_root(name: str, order: int) -> None:
    """p(x) = x Σ_j binom(2j, j) (H/4)^j up to `order`, H = 1 - x²."""
    x = torch.linspace(0, 1, 101, dtype=torch.float64)
    series = sum((math.comb(2 * j, j) * ((1 - x * x) / 4) ** j for j in range(order + 1)), torch.zeros_like(x))
    torch.testing.assert_close(orthogonaliser(name, 1).evaluate(x), x * series)


def test_muon_keeps_what_is_not_small_near_one() -> None:
    y = orthogonaliser("muon").evaluate(torch.linspace(0.05, 1, 1001, dtype=torch.float64))
    assert 0.67 < float(y.min()) < float(y.max()) < 1.21  # the post's "0.7 to 1.2", in five applications


def test_cans_ends_within_its_delta_from_smaller_values_on_than_polar_express() -> None:
    cans, express = (orthogonaliser(name) for name in ("cans", "polar-express"))
    x = torch.linspace(0, 1.01, 100_001, dtype=torch.float64)
    reached = x[((cans.evaluate(x) - 1).abs() <= 0.3 + 1e-6)]
    assert float(reached[0]) < 6e-4
    assert bool(((cans.evaluate(x[x >= reached[0]]) - 1).abs() <= 0.3 + 1e-6).all())
    slopes = [math.prod(row[0] for row in one.rows()) for one in (cans, express)]
    assert slopes[0] > slopes[1]


def test_errors_of_named_sets() -> None:
    assert all(step.error <= 1e-5 for step in named_steps("sign-cut", (0.1, 0.5, 0.9), 5))
    low, high = named_steps("sign-cut", (0.01, 0.99), 5)  # ±0.05 reaches an end of [0, 1]
    assert high.error <= 1e-5
    assert low.error == pytest.approx(sign_quintics(0.06**2 / 2 / (1 - 0.06**2 / 2), 5)[1] / 2, rel=1e-6)
    assert all(step.error > 0.9 for step in named_steps("kovarik", (0.5, 0.9), 5))  # no step: it keeps all
    with pytest.raises(UsageError, match=r"set is 'other'; it must be one of paper, muon, .*sign-cut"):
        named_steps("other", (0.5,), 5)
