"""The live table of `fgcli bench`: whole lines at any width, and no more of them than the terminal has."""

import io
import re
import threading
from pathlib import Path

import pytest
from fake_runs import fake_run
from rich.console import Console
from rich.control import Control
from rich.text import Text

from fgcli.bench.run import Job
from fgcli.commands.bench_display import BenchDisplay
from fgcli.commands.live_view import LiveView
from fgcli.recipe_keys import Recipe
from fgcli.runs.run_directory import RunDirectory

LONG = "wperp-with-the-shared-solver-and-orthogonal-tangents-seed0"


def job(folder: Path, name: str) -> Job:
    run = RunDirectory(fake_run(folder / name, finished=False))
    return Job(name, Recipe(epochs=4), folder / "recipe.yaml", run, folder / "log")


def drawn(display: BenchDisplay, width: int) -> list[str]:
    console = Console(width=width, file=io.StringIO())
    console.print(display.table())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [60, 100, 200])
def test_each_trial_is_one_whole_line(tmp_path: Path, width: int) -> None:
    display = BenchDisplay()
    display.expects(3)
    done = job(tmp_path, LONG)
    display.started(done, 1)
    fake_run(tmp_path / "done")
    (tmp_path / "done" / "result.json").rename(done.run.result_file)
    display.finished(done)
    display.started(job(tmp_path, "backprop-seed0"), 2)
    lines = drawn(display, width)
    assert len(lines) == 8
    assert max(map(len, lines)) <= width
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[-3:-1]]
    assert cells[0][1:3] == ["0.600 / 0.500", ""]
    assert cells[0][0] == (LONG if width > 60 else "wperp-with-t…gents-seed0")
    assert [cell[:11] for cell in cells[1]] == ["backprop-se", "0.552 / 0.4", "2/4", "0 s"]
    assert "accuracy" in lines[3]


def test_a_table_is_no_higher_than_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "24")
    display = BenchDisplay()
    for number in range(30):
        display.started(job(tmp_path, f"wt-seed{number}"), 1)
    lines = drawn(display, 80)
    assert len(lines) <= 24 - 6  # six finished ones are still to come
    assert "and 20 more" in lines[-2]


def test_on_a_narrower_terminal_the_screen_is_drawn_anew_below_the_lines_that_stay() -> None:
    console = Console(width=100, file=io.StringIO(), force_terminal=True)
    assert isinstance(console.file, io.StringIO)
    again = threading.Event()
    view = LiveView(console, lambda: (again.set(), Text("x" * console.width))[1], transient=True)
    view.say("a line that stays")
    view.start()
    view.say("another")
    console.width = 60
    again.clear()
    assert again.wait(60)
    view.stop()
    before, cleared, after = console.file.getvalue().partition(str(Control.clear()))
    assert cleared
    assert "x" * 100 in before
    after = re.sub(r"\x1b\[[?\d;]*\w", "", after)
    assert list(dict.fromkeys(filter(None, after.splitlines()))) == ["a line that stays", "another", "x" * 60]
    assert not view.is_on
