"""The shipped table, reading and refusing, writing, and which table is found."""

import errno
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fgcli.errors import UsageError
from fgcli.spectra import table_file
from fgcli.spectra.coefficients import (
    PAPER_SIGMAS,
    CoefficientTable,
    FitOptions,
    StepFit,
    instability,
    measure,
)
from fgcli.spectra.step_polynomial import StepPolynomial

TARGETS = dict.fromkeys(PAPER_SIGMAS, 0.05) | {0.1: 0.20, 0.2: 0.20, 0.3: 0.12}
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def small_table() -> CoefficientTable:
    """The first two fits of the shipped table."""
    fits = table_file.shipped_table().fits[:2]
    return CoefficientTable(FitOptions(sigmas=tuple(fit.sigma for fit in fits)), fits)


def changed(change: Change, *, sign: bool = True) -> bytes:
    """A table file after `change`, with a checksum that is right again if `sign`."""
    content = json.loads(table_file.to_json(small_table()))
    change(content)
    if sign:
        content["checksum"] = table_file._checksum({k: v for k, v in content.items() if k != "checksum"})
    return json.dumps(content).encode()


def test_shipped_table_meets_its_targets() -> None:
    table = table_file.shipped_table()
    assert table.options == FitOptions(degree=7, applications=5, per_iteration=False, sigmas=PAPER_SIGMAS)
    assert table.covers()
    x = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    for fit in table.fits:
        error = (fit.polynomial.evaluate(x) - (x > fit.sigma).double()).abs()
        outside = ((x - fit.sigma).abs() > 0.05) | torch.isclose((x - fit.sigma).abs(), torch.tensor(0.05).double())
        assert fit.error == pytest.approx(float(error[outside].max()), abs=1e-9)
        assert fit.error <= TARGETS[fit.sigma]
        assert fit.polynomial.evaluate(torch.tensor([1.01, 1.02, 1.05])).abs().max() < 1.2


@pytest.mark.parametrize(
    ("sigma", "nearest"), [(0.0, 0.1), (0.149, 0.1), (0.151, 0.2), (0.55, 0.5), (0.94, 0.9), (1.0, 0.9)]
)
def test_nearest(sigma: float, nearest: float) -> None:
    table = table_file.shipped_table()
    by_sigma = {fit.sigma: fit.polynomial for fit in table.fits}
    assert table.nearest(sigma).polynomial is by_sigma[nearest]


def test_nearest_refuses_nan() -> None:
    with pytest.raises(ValueError, match="sigma is nan"):
        table_file.shipped_table().nearest(math.nan)


def test_covers_asks_for_all_of_the_papers_range() -> None:
    assert not small_table().covers()
    fits = table_file.shipped_table().fits
    assert not CoefficientTable(FitOptions(), fits[:4] + fits[5:]).covers()


def test_measure_counts_both_ends_of_the_band() -> None:
    identity = StepPolynomial(((1.0, 0.0, 0.0),), 1)
    largest, mean = measure(identity, 0.3)
    assert largest == pytest.approx(0.65)  # at 0.35, where the step is 1
    assert mean == pytest.approx(0.3**2 / 2 + 0.7**2 / 2, abs=1e-3)


def test_instability() -> None:
    assert instability(StepPolynomial(((1.0, 0.0, 0.0),), 3)) is None
    inside = instability(StepPolynomial(((6.0, -5.0, 0.0),), 1))
    assert inside is not None
    assert "above 1.5" in inside
    # p(1) = 1 with the slope 13: bounded on [0, 1], and each application multiplies what exceeds 1 by 13.
    beyond = instability(StepPolynomial(((0.0, -4.0, 5.0),), 5))
    assert beyond is not None
    assert "p^N(1.0" in beyond
    overflowing = instability(StepPolynomial(((30.0, 30.0, 30.0),), 9))
    assert overflowing is not None


def test_round_trip(tmp_path: Path) -> None:
    table = small_table()
    path = tmp_path / "table.json"
    table_file.write_table(table, path)
    assert table_file.read_table(path) == table
    assert os.listdir(tmp_path) == ["table.json"]


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "table.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk gone")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk gone"):
        table_file.write_table(small_table(), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.json"]


REFUSED: dict[str, tuple[Change, bool, str]] = {
    "foreign": (lambda c: c.pop("format"), True, "not a table of `fgcli fit-ns-coeffs`"),
    "newer": (lambda c: c.update(schema_version=2), True, "schema version 2 is newer than this fg's, 1; update fg"),
    "no version": (lambda c: c.update(schema_version="1"), True, "schema version is '1'"),
    "changed coefficient": (
        lambda c: c["table"][0]["coefficients"][0].__setitem__(0, 1.18),
        False,
        "checksum does not match",
    ),
    "no checksum": (lambda c: c.pop("checksum"), False, "checksum does not match"),
    "unknown key": (lambda c: c.update(extra=1), True, "extra: Extra inputs"),
    "text for a number": (lambda c: c["table"][0].update(sigma="0.1"), True, r"table\.0\.sigma"),
    "even degree": (lambda c: c.update(degree=6), True, "degree is 6"),
    "other degree": (lambda c: c.update(degree=5), True, "1 polynomials of degree 7 where 1 of degree 5 belong"),
    "other form": (lambda c: c["fit"].update(per_iteration=True), True, "where 5 of degree 7 belong"),
    "rows of two lengths": (
        lambda c: c["table"][0]["coefficients"].append([1.0]),
        True,
        "2 polynomials of degree 1 and 7",
    ),
    "no rows": (lambda c: c["table"][0].update(coefficients=[]), True, "0 polynomials of degree none where 1"),
    "no steps": (lambda c: c.update(table=[]), True, "no σ to fit"),
    "sigma outside": (lambda c: c["table"][0].update(sigma=0.0), True, "σ is 0"),
    "not ascending": (lambda c: c["table"].reverse(), True, "ascending"),
    "unstable": (lambda c: c["table"][0].update(coefficients=[[2.9, 0.0, 0.0, 0.0]]), True, "unstable"),
    "diverges just past 1": (
        lambda c: c["table"][0].update(coefficients=[[0.0, 0.0, -6.0, 7.0]]),
        True,
        r"unstable, \|p\^N\(1\.0",
    ),
    "not a step": (lambda c: c["table"][0].update(coefficients=[[1.0, 0.0, 0.0, 0.0]]), True, "stated errors"),
    "false error": (lambda c: c["table"][0].update(error=0.01), True, "stated errors 0.01"),
}


@pytest.mark.parametrize(("change", "sign", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_the_reason(change: Change, sign: bool, reason: str) -> None:
    with pytest.raises(UsageError, match=f"the table is refused: .*{reason}"):
        table_file.parse_table(changed(change, sign=sign), "the table")


def test_unchanged_table_is_read() -> None:
    assert table_file.parse_table(changed(lambda _: None), "the table") == small_table()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not strict JSON"),
        (b"[]", "not a table"),
        (b"\xff\xfe", "not strict JSON"),
        (b"[" * 100_000, "not strict JSON"),
        (b'{"format": 1, "format": 2}', "a key appears twice"),
        (b'{"format": NaN}', "NaN is not JSON"),
        (b'{"format": "fg newton-schulz coefficients", "schema_version": 1, "degree": 1e999}', "not finite"),
    ],
)
def test_what_is_not_strict_json_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        table_file.parse_table(data, "the table")


def test_torn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    path.write_text(table_file.to_json(small_table())[:-200])
    with pytest.raises(UsageError, match=rf"{path} is refused: it is not strict JSON"):
        table_file.read_table(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*absent\.json: No such file"):
        table_file.find_table(tmp_path / "absent.json")


def test_a_name_that_is_no_set_and_no_file() -> None:
    with pytest.raises(UsageError, match=r"unknown coefficient set 'signcut'; did you mean 'sign-cut'\? known .*muon"):
        table_file.find_table("signcut")
    assert table_file.find_table("paper") is table_file.shipped_table()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match=r"pipe is refused: not a regular file"):
        table_file.find_table(tmp_path / "pipe")


def test_found_are_the_named_then_the_cached_then_the_shipped(cache: Path, tmp_path: Path) -> None:
    shipped = table_file.shipped_table()
    assert table_file.find_table() is shipped
    table_file.write_table(small_table(), table_file.active_path())
    assert table_file.active_path().parent == cache
    assert table_file.find_table() == small_table()
    table_file.write_table(shipped, tmp_path / "named.json")
    assert table_file.find_table(tmp_path / "named.json") == shipped


def test_damaged_cache_is_refused_with_the_mend(cache: Path) -> None:
    (cache / "newton-schulz.json").write_text("{}")
    with pytest.raises(UsageError, match=r"not a table of .*; delete it, or write a new one with `fgcli fit-ns"):
        table_file.find_table()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"degree": 6}, "degree is 6; .* 5, 7 or 9"),
        ({"applications": 0}, "is 0; it must be from 1 to 32"),
        ({"applications": 33}, "is 33"),
        ({"sigmas": (0.0,)}, "σ is 0;"),
        ({"sigmas": (0.5, 1.0)}, "σ is 1;"),
        ({"sigmas": (math.nan,)}, "σ is nan"),
        ({"sigmas": ()}, "no σ"),
        ({"sigmas": tuple(i / 200 for i in range(1, 102))}, "101 values of σ; at most 100"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        FitOptions(**options)


def test_options_sort_their_sigmas() -> None:
    assert FitOptions(sigmas=(0.5, 0.1, 0.5)).sigmas == (0.1, 0.5)


def test_cached_path_tells_options_apart(cache: Path) -> None:
    first = table_file.cached_path(FitOptions())
    assert first == table_file.cached_path(FitOptions())
    assert first != table_file.cached_path(FitOptions(seed=1))
    assert first.parent == cache


def test_largest_table_stays_within_the_size_that_is_read() -> None:
    row = (0.1234567890123456789, -1234.567890123456, 0.1, -1e-17 / 3, 1 / 3)
    sigmas = tuple(i / 101 for i in range(1, 101))
    polynomial = StepPolynomial((row,) * 32, 32)
    fits = tuple(StepFit(sigma, polynomial, 1 / 3, 1 / 3, 0.05) for sigma in sigmas)
    options = FitOptions(degree=9, applications=32, per_iteration=True, sigmas=sigmas)
    assert len(table_file.to_json(CoefficientTable(options, fits))) < table_file.SIZE_LIMIT
