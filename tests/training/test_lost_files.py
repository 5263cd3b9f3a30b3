"""Files of a run that are damaged or gone when it is resumed."""

from functools import partial
from pathlib import Path

import pytest
from tiny_runs import Listener, Stopper, go_on, rows, run, untimed

from fgcli.errors import RunError


def test_damaged_checkpoint_and_torn_row_are_said_and_the_numbers_hold(tmp_path):
    whole, path = run(tmp_path / "whole"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(path, Stopper(8))
    damaged = path / "checkpoints" / "step-0000000006.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "tr')
    listener = Listener()
    assert untimed(go_on(path, listener)) == untimed(whole)
    assert untimed(rows(path)) == untimed(rows(tmp_path / "whole"))
    assert len(listener.warnings) == 2
    assert f"{damaged}: damaged" in listener.warnings[0]
    assert "the checkpoint before it is used" in listener.warnings[0]
    assert "dropped the torn last line" in listener.warnings[1]


@pytest.mark.parametrize(
    ("lost", "spoil", "said"),
    [
        ("*.safetensors", partial(Path.write_bytes, data=b""), "no usable checkpoint"),
        ("*", Path.unlink, r"no checkpoint is left in .*checkpoints, though the run has been evaluated"),
        ("*.json", Path.unlink, r"no checkpoint is left in .*checkpoints, though the run has been evaluated"),
    ],
)
def test_lost_checkpoints_are_no_silent_restart(tmp_path, lost, spoil, said):
    path, listener = tmp_path / "run", Listener()
    with pytest.raises(KeyboardInterrupt):
        run(path, Stopper(8))
    for file in (path / "checkpoints").glob(lost):
        spoil(file)
    before = rows(path)
    assert len(before) > 1
    with pytest.raises(RunError, match=said):
        go_on(path, listener)
    assert rows(path) == before
    assert listener.warnings == []


def test_a_checkpoint_without_its_manifest_is_said_and_the_one_before_it_used(tmp_path):
    whole, path, listener = run(tmp_path / "whole"), tmp_path / "run", Listener()
    with pytest.raises(KeyboardInterrupt):
        run(path, Stopper(8))
    (path / "checkpoints" / "step-0000000006.json").unlink()
    assert untimed(go_on(path, listener)) == untimed(whole)
    assert listener.warnings == [
        f"{path / 'checkpoints' / 'step-0000000006.safetensors'}: has no manifest, which is written last; the "
        "checkpoint before it is used"
    ]
    assert untimed(rows(path)) == untimed(rows(tmp_path / "whole"))


@pytest.mark.parametrize("left", [b"", b'{"step": 3}\n', b'{"step": 12}\n'])
def test_rows_that_are_lost_are_said_and_the_last_one_is_measured_anew(tmp_path, left):
    whole, path = run(tmp_path / "run"), tmp_path / "run"
    last = rows(path)[-1]
    (path / "result.json").unlink()
    (path / "metrics.jsonl").write_bytes(left)
    listener = Listener()
    assert untimed(go_on(path, listener)) == untimed(whole)
    assert untimed(rows(path)[-1]) == untimed(last)
    assert listener.warnings == [f"{path / 'metrics.jsonl'} has lost {4 - bool(left)} of 4 rows"]


def test_lost_metrics_file_in_the_middle(tmp_path):
    whole, path = run(tmp_path / "whole"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run(path, Stopper(8))
    (path / "metrics.jsonl").unlink()
    listener = Listener()
    assert untimed(go_on(path, listener)) == untimed(whole)
    assert untimed(rows(path)) == untimed(rows(tmp_path / "whole"))[1:]
    assert listener.warnings == [f"{path / 'metrics.jsonl'} has lost 2 of 2 rows"]
