import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from fgcli.commands.fit_ns_coeffs import fit_ns_coeffs
from fgcli.errors import UsageError
from fgcli.spectra import fitting, table_file
from fgcli.spectra.coefficients import CoefficientTable, FitOptions


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[FitOptions]:
    """The options that were fitted; the fits themselves are taken from the shipped table."""
    calls: list[FitOptions] = []

    def fit(options: FitOptions, progress: fitting.Progress) -> CoefficientTable:
        calls.append(options)
        progress(1.0)
        by_sigma = {fit.sigma: fit for fit in table_file.shipped_table().fits}
        return CoefficientTable(options, tuple(by_sigma[sigma] for sigma in options.sigmas))

    monkeypatch.setattr(fitting, "fit_table", fit)
    return calls


def invoke(*arguments: str | Path) -> Result:
    app = typer.Typer()
    app.command()(fit_ns_coeffs)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeed(*arguments: str | Path) -> Result:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refusal(*arguments: str | Path) -> str:
    error = invoke(*arguments).exception
    assert isinstance(error, UsageError)
    assert error.exit_code == 2
    return str(error)


def test_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, fgcli.commands.fit_ns_coeffs;"
        "print(*{'torch', 'scipy', 'matplotlib', 'numpy', 'pydantic'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_defaults_are_fitted_kept_and_used(fitted: list[FitOptions], cache: Path) -> None:
    result = succeed()
    assert fitted == [FitOptions()]
    assert "largest error" in result.stdout
    assert "0.13" in result.stdout  # the error of σ = 0.1
    assert "5.842" in result.stdout  # b of σ = 0.5
    assert "wperp-ns uses this table" in result.stdout
    assert table_file.find_table() == table_file.shipped_table()
    assert {path.name for path in cache.iterdir()} == {
        "newton-schulz.json",
        table_file.cached_path(FitOptions()).name,
    }
    assert "fitting: 100 %" in result.stderr


def test_narrow_terminal_loses_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert "5.842" in succeed("--sigma", "0.5").stdout


def test_the_same_options_are_read_and_others_fitted(fitted: list[FitOptions]) -> None:
    succeed("--sigma", "0.5")
    assert "read from" in succeed("--sigma", "0.5").stdout
    assert len(fitted) == 1
    succeed("--sigma", "0.5", "--seed", "1")
    assert [options.seed for options in fitted] == [0, 1]


def test_options_reach_the_fit(fitted: list[FitOptions]) -> None:
    succeed("--degree", "7", "--iterations", "5", "--sigma", "0.5", "--sigma", "0.2", "--seed", "3")
    assert fitted == [FitOptions(degree=7, applications=5, sigmas=(0.2, 0.5), seed=3)]


def test_table_that_does_not_cover_every_sigma_is_kept_but_not_used(cache: Path) -> None:
    assert "does not cover" in succeed("--sigma", "0.5").stdout
    assert not (cache / "newton-schulz.json").exists()


def test_json_is_the_table_and_nothing_else() -> None:
    result = succeed("--json", "--sigma", "0.5")
    assert result.stdout == table_file.cached_path(FitOptions(sigmas=(0.5,))).read_text()
    assert json.loads(result.stdout)["table"][0]["sigma"] == 0.5
    assert "largest error" in result.stderr


def test_out_is_written_instead_of_the_cache_and_read_again(
    tmp_path: Path, cache: Path, fitted: list[FitOptions]
) -> None:
    path = tmp_path / "table.json"
    succeed("--out", path)
    assert table_file.read_table(path) == table_file.shipped_table()
    assert not cache.exists()
    assert "read from" in succeed("--out", path).stdout
    assert len(fitted) == 1
    succeed("--out", path, "--sigma", "0.5")
    assert table_file.read_table(path).options == FitOptions(sigmas=(0.5,))


def test_out_never_replaces_another_file(tmp_path: Path, fitted: list[FitOptions]) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    assert "--out would overwrite a file" in refusal("--out", path)
    assert path.read_text() == "mine"
    assert not fitted


def test_damaged_cache_is_fitted_anew_with_a_warning(fitted: list[FitOptions]) -> None:
    succeed("--sigma", "0.5")
    path = table_file.cached_path(FitOptions(sigmas=(0.5,)))
    path.write_text("{}")
    assert "fitting anew" in succeed("--sigma", "0.5").stderr
    assert len(fitted) == 2
    assert table_file.read_table(path).options.sigmas == (0.5,)


def test_a_table_of_other_options_in_its_place_is_not_taken_for_it(fitted: list[FitOptions], cache: Path) -> None:
    succeed("--sigma", "0.5")
    path = table_file.cached_path(FitOptions(sigmas=(0.5,)))
    succeed("--sigma", "0.2")
    path.write_bytes(table_file.cached_path(FitOptions(sigmas=(0.2,))).read_bytes())
    assert "was fitted with other options; fitting anew" in succeed("--sigma", "0.5").stderr
    assert [options.sigmas for options in fitted] == [(0.5,), (0.2,), (0.5,)]
    assert table_file.read_table(path).options.sigmas == (0.5,)


def test_a_fit_that_is_broken_off_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(options: FitOptions, progress: fitting.Progress) -> CoefficientTable:
        progress(0.3)
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "fit_table", stopped)
    assert invoke("--sigma", "0.5").exit_code == 130
    assert not cache.exists()


def test_unwritable_cache_costs_only_a_warning(cache: Path) -> None:
    cache.write_text("a file where the folder belongs")
    result = succeed("--sigma", "0.5")
    assert "the table is not kept" in result.stderr
    assert "0.0022" in result.stdout


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_plot_is_written_and_reproducible(tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    succeed("--plot", first, "--sigma", "0.5", "--sigma", "0.2")
    succeed("--plot", second, "--sigma", "0.5", "--sigma", "0.2")
    assert first.stat().st_size > 1000
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--sigma", "0"), "σ is 0; it must lie between 0 and 1"),
        (("--sigma", "1.5"), "σ is 1.5"),
        (("--sigma", "nan"), "σ is nan"),
        (("--degree", "6"), "degree is 6; the polynomial is odd, of degree 5, 7 or 9"),
        (("--iterations", "0"), "is 0; it must be from 1 to 32"),
        (("--seed", "-1"), "seed is -1"),
        (("--plot", "figure.jpg"), "--plot is figure.jpg; its name must end in .png, .svg, .pdf"),
    ],
)
def test_bad_input_is_refused_before_the_fit(
    arguments: tuple[str, ...], reason: str, fitted: list[FitOptions], cache: Path
) -> None:
    assert reason in refusal(*arguments)
    assert not fitted
    assert not cache.exists()


@pytest.mark.parametrize("flag", ["--out", "--plot"])
def test_files_that_cannot_be_written_are_refused_before_the_fit(
    flag: str, tmp_path: Path, fitted: list[FitOptions]
) -> None:
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").write_text("")
    assert "a folder; name a file" in refusal(flag, tmp_path / "folder.svg")
    assert "No such file or directory" in refusal(flag, tmp_path / "absent" / "x.svg")
    assert "Not a directory" in refusal(flag, tmp_path / "file" / "x.svg")
    assert "File name too long" in refusal(flag, tmp_path / f"{'x' * 300}.svg")
    os.mkfifo(tmp_path / "pipe.svg")
    assert "no regular file; name a file" in refusal(flag, tmp_path / "pipe.svg")
    assert not fitted


def test_plot_and_out_are_not_one_file(tmp_path: Path, fitted: list[FitOptions]) -> None:
    reason = refusal("--out", tmp_path / "a.svg", "--plot", tmp_path / "." / "a.svg")
    assert "--plot and --out are both" in reason
    assert not fitted


def test_per_iteration_table_has_no_columns_of_coefficients(
    monkeypatch: pytest.MonkeyPatch, fitted: list[FitOptions]
) -> None:
    def fit(options: FitOptions, progress: fitting.Progress) -> CoefficientTable:
        progress(1.0)
        fitted.append(options)
        one = table_file.shipped_table().fits[4]
        rows = dataclasses.replace(one.polynomial, coefficients=tuple(one.polynomial.rows()))
        return CoefficientTable(options, (dataclasses.replace(one, polynomial=rows),))

    monkeypatch.setattr(fitting, "fit_table", fit)
    result = succeed("--per-iteration", "--sigma", "0.5")
    assert fitted[0].per_iteration
    assert "one polynomial for each of 5 applications" in result.stdout
    assert "5.842" not in result.stdout


def test_a_named_set_is_shown_and_neither_fitted_nor_kept(fitted: list[FitOptions], cache: Path) -> None:
    shown = succeed("--set", "sign-cut", "--sigma", "0.1").stdout
    assert "5.4e-07" in shown
    assert "--option coeffs=sign-cut" in shown
    assert "keeps what lies below" in succeed("--set", "muon").stdout
    assert "4.775" in succeed("--set", "muon").stdout
    assert not fitted
    assert not cache.exists()


def test_a_named_set_as_json_and_as_a_figure(tmp_path: Path) -> None:
    result = succeed("--set", "sign-cut", "--sigma", "0.2", "--iterations", "4", "--json", "--plot", tmp_path / "a.svg")
    content = json.loads(result.stdout)
    (step,) = content["table"]
    assert (content["set"], content["applications"], len(step["coefficients"])) == ("sign-cut", 4, 4)
    assert step["shift"] == pytest.approx(0.2**2 + 0.05**2)
    assert (tmp_path / "a.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--set", "cubic"), "--set is 'cubic'; it must be one of paper, muon"),
        (("--set", "muon", "--degree", "5"), "--degree is of a fit, and the set 'muon' is not fitted"),
        (("--set", "cans", "--out", "x.json"), "--out is of a fit"),
        (("--set", "sign-cut", "--sigma", "1"), "σ is 1;"),
    ],
)
def test_what_a_named_set_cannot_have_is_refused(arguments: tuple[str, ...], reason: str) -> None:
    assert reason in refusal(*arguments)
