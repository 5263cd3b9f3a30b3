from pathlib import Path

from fgcli.runs.sweep_directory import SweepDirectory, sweep_of


def test_a_trial_knows_its_sweep_and_other_runs_have_none(tmp_path: Path) -> None:
    sweep = SweepDirectory(tmp_path / "table")
    trial, search = sweep.run("one").path, sweep.run("one", tuning=True).path
    assert sweep_of(trial) is None  # no sweep has been recorded
    sweep.path.mkdir()
    sweep.sweep_file.touch()
    assert sweep_of(trial) == sweep_of(search) == tmp_path / "table"
    assert sweep_of(tmp_path / "table" / "else" / "one") is None
    assert sweep_of(tmp_path / "one") is None
