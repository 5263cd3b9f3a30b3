import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fgcli.errors import RunError, UsageError
from fgcli.training.run_directory import (
    Content,
    check_free,
    content,
    create,
    open_run,
    open_unfinished,
    slug,
)


@pytest.fixture
def run(tmp_path):
    run = create(tmp_path / "run", "label")
    run.describe("method: wt\n", {"fg": "0"})
    return run


def test_out_may_be_new_or_empty(tmp_path):
    assert create(tmp_path / "a" / "b", "label").checkpoints.is_dir()
    (tmp_path / "empty").mkdir()
    assert create(tmp_path / "empty", "label").checkpoints.is_dir()


def test_taken_out_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"unfinished run; go on with --resume .*run, or give a new folder"):
        check_free(run.path)
    run.write_result({"steps": 1})
    with pytest.raises(UsageError, match="holds a finished run; give a new folder"):
        create(run.path, "label")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        create(tmp_path / "other", "label")
    with pytest.raises(UsageError, match="not an empty folder"):
        check_free(tmp_path / "other" / "thesis.tex")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_out_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot make the run directory .*file/run: Not a directory"):
        create(tmp_path / "file" / "run", "label")


def test_twenty_at_once_get_twenty_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(20) as pool:
        runs = list(pool.map(lambda _: create(None, "wt-mnist1d-w512-s0"), range(20)))
    assert len({run.path for run in runs}) == 20
    assert all(run.path.parent == Path("runs") and run.path.name.startswith("wt-mnist1d-w512-s0-") for run in runs)


def test_of_twenty_at_once_one_gets_the_folder(tmp_path):
    def attempt(_):
        try:
            return create(tmp_path / "run", "label")
        except UsageError:
            return None

    with ThreadPoolExecutor(20) as pool:
        assert sum(run is not None for run in pool.map(attempt, range(20))) == 1


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "..", "a b\n", "<script>", "...", "~"])
def test_label_never_leaves_the_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert create(None, name).path.resolve().parent == tmp_path / "runs"
    assert "/" not in slug(name)


def test_what_a_folder_holds(run, tmp_path):
    assert content(tmp_path / "nowhere") is Content.NOTHING
    assert content(run.path) is Content.UNFINISHED_RUN
    assert open_unfinished(run.path) == run
    run.write_result({"steps": 1})
    assert content(run.path) is Content.FINISHED_RUN
    assert open_run(run.path).read_result() == {"steps": 1}
    with pytest.raises(UsageError, match=r"this run is finished; its result is in .*result\.json"):
        open_unfinished(run.path)
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match=r"no file .*recipe\.yaml"):
            open_unfinished(path)
        with pytest.raises(UsageError, match=r"holds no run: there is no file .*recipe\.yaml"):
            open_run(path)


def test_metrics_come_back(run):
    assert run.read_metrics() == ([], False)
    rows = [{"step": step, "train_loss": 0.1 * step} for step in range(1, 4)]
    for row in rows:
        run.append_metrics(row)
    assert run.read_metrics() == (rows, False)


def test_torn_last_line_is_dropped_once(run):
    run.append_metrics({"step": 1})
    with run.metrics_file.open("a") as file:
        file.write('{"step": 2')
    assert run.read_metrics() == ([{"step": 1}], True)
    assert run.rewind_metrics(5) == ([{"step": 1}], True)
    assert run.rewind_metrics(5) == ([{"step": 1}], False)
    run.append_metrics({"step": 2})
    assert run.read_metrics() == ([{"step": 1}, {"step": 2}], False)


def test_rows_after_the_step_are_dropped(run):
    for step in (1, 2, 3):
        run.append_metrics({"step": step})
    assert run.rewind_metrics(2) == ([{"step": 1}, {"step": 2}], False)
    assert run.read_metrics() == ([{"step": 1}, {"step": 2}], False)


@pytest.mark.parametrize("line", [b"garbage", b"[1]", b'{"loss": NaN}', b"\xff\xfe"])
def test_broken_line_in_the_middle_is_named(run, line):
    run.append_metrics({"step": 1})
    with run.metrics_file.open("ab") as file:
        file.write(line + b"\n")
    run.append_metrics({"step": 3})
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: not a metrics row"):
        run.read_metrics()


def test_row_cut_short_by_a_full_disk_is_taken_back(run, monkeypatch):
    run.append_metrics({"step": 1})
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with pytest.raises(RunError, match=r"only 5 of 12 bytes \(disk full\?\)"):
        run.append_metrics({"step": 2})
    monkeypatch.undo()
    assert run.read_metrics() == ([{"step": 1}], False)


def test_broken_result_is_named(run):
    with pytest.raises(RunError, match=r"cannot read .*result\.json"):
        run.read_result()
    run.result_file.write_text('{"steps": 1')
    with pytest.raises(RunError, match=r"cannot read .*result\.json"):
        run.read_result()
