"""A run holds what it used: a table fitted later, or another machine's, does not change a rerun or a resumption."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_runs import TINY, Stopper, go_on, run, tiny_recipe, untimed, weights

from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.recipe import read_recipe, resolve
from fgcli.spectra import table_file
from fgcli.spectra.coefficients import CoefficientTable
from fgcli.training.assembly import settle
from fgcli.training.reporter import Reporter
from fgcli.training.start import begin, resume

METHOD = {"method": "wperp-ns", "k": 3}


def table(*indices: int) -> CoefficientTable:
    """Some of the shipped fits."""
    shipped = table_file.shipped_table()
    fits = tuple(shipped.fits[index] for index in indices)
    return CoefficientTable(replace(shipped.options, sigmas=tuple(fit.sigma for fit in fits)), fits)


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a table where `fgcli fit-ns-coeffs` leaves the last one."""
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return lambda some: table_file.write_table(some, table_file.active_path())


def test_the_table_of_a_run_is_in_its_recipe(tmp_path, cached):
    cached(table(2))
    whole = run(tmp_path / "whole", **METHOD)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stopper(7), **METHOD)

    cached(table(7))
    other = run(tmp_path / "other", **METHOD)
    assert other["train_loss"] != whole["train_loss"]
    again = resolve(read_recipe(tmp_path / "whole" / "recipe.yaml"), {}, load_registry())
    assert untimed(begin(again, tmp_path / "again", load_registry(), Reporter()).run()) == untimed(whole)
    # What was left to the machine is what the run has, as with the device.
    same = resume(tmp_path / "stopped", None, TINY | METHOD, load_registry(), Reporter())
    assert untimed(same.run()) == untimed(whole)
    assert weights(tmp_path / "stopped") == weights(tmp_path / "whole")


def test_a_named_table_is_in_the_recipe_too(tmp_path, cached):
    file = tmp_path / "t.json"
    table_file.write_table(table(2), file)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", Stopper(7), **METHOD, options={"coeffs": str(file)})
    same = {"options": {"coeffs": str(file)}}
    resume(tmp_path / "stopped", None, same, load_registry(), Reporter()).run_directory.release()
    table_file.write_table(table(7), file)
    with pytest.raises(UsageError, match=r"options\.coeffs is another than that of the run's recipe; .*leave it out"):
        resume(tmp_path / "stopped", None, same, load_registry(), Reporter())
    file.unlink()
    go_on(tmp_path / "stopped")


def test_the_shipped_table_is_named_and_used_where_another_is_cached(cached):
    settled = settle(tiny_recipe(**METHOD), load_registry())
    assert settled.options["coeffs"] == "shipped"
    cached(table(2))
    assert settle(settled, load_registry()) == settled
    assert settle(tiny_recipe(**METHOD), load_registry()).options["coeffs"].startswith("{")


def test_a_table_written_out_is_checked():
    text = table_file.to_text(table(2))
    assert table_file.find_table(text) == table(2)
    with pytest.raises(UsageError, match="the coefficient table written out is refused: its checksum does not match"):
        table_file.find_table(text.replace('"seed":0', '"seed":1'))
