import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgcli.errors import RunError, UsageError
from fgcli.files import to_json, write_atomically
from fgcli.runs.environment import Environment
from fgcli.runs.record import as_json
from fgcli.runs.results import Metrics, MetricsRow, Result
from fgcli.runs.rows import append_row, read_rows
from fgcli.runs.run_directory import (
    check_free,
    create,
    open_unfinished,
    read_run,
    slug,
)


@pytest.fixture
def run(tmp_path):
    """A run that nobody is at."""
    run = create(tmp_path / "run", "label")
    run.model_file.touch()
    run.describe("method: wt\n", Environment({"fg": "0"}))
    run.release()
    return run


METRICS = Metrics(train_accuracy=0.5, test_accuracy=0.25, train_loss=1.0, test_loss=2.0)
RESULT = Result(
    recipe={"method": "wt", "k": None}, steps=1, metrics=METRICS, wall_s=1.5, step_ms_median=1.0,
    step_ms_quartiles=(0.5, 1.25), peak_memory_bytes=2**20, sites=("hidden1",), run_dir="run",
)  # fmt: skip


def evaluated(*steps):
    return [MetricsRow(step, step / 2, METRICS, 0.5 * step) for step in steps]


def test_out_may_be_new_or_empty(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "a" / "b", tmp_path / "empty"):
        made = create(path, "label")
        assert made.checkpoints.is_dir()
        made.release()


def test_taken_out_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match=r"unfinished run; go on with --resume .*run, or give a new folder"):
        check_free(run.path)
    run.write_result(RESULT)
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
    with pytest.raises(UsageError, match=r"^--out .*: Not a directory; give another path$"):
        create(tmp_path / "file" / "run", "label")


def test_twenty_at_once_get_twenty_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(20) as pool:
        runs = list(pool.map(lambda _: create(None, "wt-mnist1d-w512-s0"), range(20)))
    for run in runs:
        run.release()
    assert len({run.path for run in runs}) == 20
    assert all(run.path.parent == Path("runs") and run.path.name.startswith("wt-mnist1d-w512-s0-") for run in runs)


def test_of_twenty_at_once_one_gets_the_folder(tmp_path):
    def attempt(_):
        try:
            return create(tmp_path / "run", "label")
        except UsageError:
            return None

    with ThreadPoolExecutor(20) as pool:
        made = [run for run in pool.map(attempt, range(20)) if run is not None]
    assert len(made) == 1
    made[0].release()


@pytest.mark.parametrize("name", ["../../etc", "/etc/passwd", "..", "a b\n", "<script>", "...", "~"])
def test_label_never_leaves_the_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = create(None, name)
    made.release()
    assert made.path.resolve().parent == tmp_path / "runs"
    assert "/" not in slug(name)


def test_what_a_folder_holds(run, tmp_path):
    opened = open_unfinished(run.path)
    assert opened == run
    opened.release()
    run.write_result(RESULT)
    assert read_run(str(run.path)).read_result() == RESULT
    with pytest.raises(UsageError, match=r"this run is finished; its result is in .*result\.json"):
        open_unfinished(run.path)
    for path, instead in (
        (tmp_path, f"a folder of runs; .* newest is {run.path}$"),
        (tmp_path / "no", r"no file .*recipe\.yaml"),
    ):
        for called in (open_unfinished, read_run):
            with pytest.raises(UsageError, match=f"holds no run: .*{instead}"):
                called(path)


def test_metrics_come_back(run):
    assert run.read_metrics() == []
    for row in evaluated(1, 2, 3):
        run.append_metrics(row)
    assert run.read_metrics() == evaluated(1, 2, 3)


def test_torn_last_line_is_dropped_once(run):
    one, two = evaluated(1, 2)
    run.append_metrics(one)
    with run.metrics_file.open("a") as file:
        file.write('{"step": 2')
    assert run.read_metrics() == [one]
    assert run.rewind_metrics(5) == ([as_json(one)], True)
    assert run.rewind_metrics(5) == ([as_json(one)], False)
    run.append_metrics(two)
    assert run.read_metrics() == [one, two]


def test_rows_after_the_step_are_dropped(run):
    for row in evaluated(1, 2, 3):
        run.append_metrics(row)
    run.rewind_metrics(2)
    assert run.read_metrics() == evaluated(1, 2)


@pytest.mark.parametrize(
    "line", [b"garbage", b"[1]", b'{"loss": NaN}', b"\xff\xfe", b'{"loss": 1}', b'{"step": "2"}', b"[" * 10**5]
)
def test_broken_line_in_the_middle_is_named(run, line):
    append_row(run.metrics_file, {"step": 1})
    with run.metrics_file.open("ab") as file:
        file.write(line + b"\n")
    append_row(run.metrics_file, {"step": 3})
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2: not such a row"):
        run.read_metrics()


ROWS = st.lists(
    st.dictionaries(
        st.text(max_size=5), st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), max_size=3
    ),
    max_size=4,
)


@given(ROWS, st.data())
def test_rows_cut_anywhere_are_read_up_to_the_last_whole_one(tmp_path_factory, rows, data):
    file = tmp_path_factory.getbasetemp() / "rows.jsonl"
    file.unlink(missing_ok=True)
    rows = [{**row, "step": step} for step, row in enumerate(rows)]
    for row in rows:
        append_row(file, row)
    content = file.read_bytes() if rows else b""
    cut = data.draw(st.integers(0, len(content)))
    file.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    assert read_rows(file) == (rows[:whole], not content[:cut].endswith(b"\n") and cut > 0)


@given(st.lists(st.binary() | st.sampled_from([b'{"step": 1}', b'{"step": 1e9}', b"{}", b"[[", b"\n"])).map(b"\n".join))
def test_any_bytes_are_rows_or_refused_in_one_line(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.jsonl"
    file.write_bytes(content)
    rows, message = [], ""
    try:
        rows, _ = read_rows(file)
    except RunError as error:
        message = str(error)
    assert message.isprintable()
    assert all(isinstance(row["step"], int) for row in rows)


def test_row_cut_short_by_a_full_disk_is_taken_back(run, monkeypatch):
    one, two = evaluated(1, 2)
    run.append_metrics(one)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:5]))
    with pytest.raises(RunError, match=r"only 5 of \d+ bytes \(disk full\?\)"):
        run.append_metrics(two)
    monkeypatch.undo()
    assert run.read_metrics() == [one]


def test_broken_result_is_named(run):
    with pytest.raises(RunError, match=r"the run has not finished; .*: fgcli train --resume "):
        run.read_result()
    run.result_file.write_text('{"steps": 1')
    with pytest.raises(RunError, match=r"cannot read .*result\.json"):
        run.read_result()


@pytest.mark.parametrize("name", ["recipe.yaml", "environment.json", "metrics.jsonl", "diagnostics.jsonl", "lock"])
def test_links_that_lead_elsewhere_are_refused(run, tmp_path, name):
    outside = tmp_path / "outside"
    outside.write_text("method: wt\n")
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(outside)
    for opening in (open_unfinished, read_run):
        with pytest.raises(UsageError, match=rf"{name} is a link to .*outside; put the file itself in its place"):
            opening(run.path)
    assert outside.read_text() == "method: wt\n"


def test_checkpoints_may_lie_on_another_disk(run, tmp_path):
    scratch = tmp_path / "scratch"
    run.checkpoints.rename(scratch)
    run.checkpoints.symlink_to(scratch)
    run.release()
    assert read_run(run.path).checkpoints.is_dir()


def test_rows_are_not_added_to_a_file_that_another_name_has_too(run, tmp_path):
    one, two = evaluated(1, 2)
    run.append_metrics(one)
    (tmp_path / "backup").hardlink_to(run.metrics_file)
    run.rewind_metrics(1)
    run.append_metrics(two)
    assert run.read_metrics() == [one, two]
    assert (tmp_path / "backup").read_text() == to_json(as_json(one)) + "\n"


def test_rows_are_not_written_through_a_link(run, tmp_path):
    run.metrics_file.symlink_to(tmp_path / "outside")
    with pytest.raises(RunError, match=r"cannot write .*metrics\.jsonl: "):
        run.append_metrics(*evaluated(1))
    assert not (tmp_path / "outside").exists()


def test_what_a_run_left_that_was_killed_before_it_began_is_free(tmp_path):
    begun = create(tmp_path / "run", "label")
    write_atomically(begun.environment_file, "{}")
    (begun.path / ".recipe.yaml.123.tmp").touch()
    begun.release()
    check_free(begun.path)
    create(tmp_path / "run", "label").release()
    (begun.path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        check_free(begun.path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "environment.json").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        check_free(tmp_path / "other")


def test_pipes_and_huge_files_are_refused_at_once(run):
    os.mkfifo(run.metrics_file)
    with pytest.raises(RunError, match=r"cannot read .*metrics\.jsonl: not a regular file"):
        run.read_metrics()
    run.metrics_file.unlink()
    with run.metrics_file.open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(RunError, match=r"cannot read .*metrics\.jsonl: larger than 536870912 bytes"):
        run.read_metrics()
