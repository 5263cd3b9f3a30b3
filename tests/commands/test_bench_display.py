"""The live table of `fgcli bench`: whole lines at any width, and no more of them than the terminal has."""

import io
import logging
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runs import fake_run
from rich.console import Console
from rich.control import Control
from rich.text import Text

from fgcli.app import Warnings
from fgcli.bench.run import Job
from fgcli.commands.bench_display import BenchDisplay
from fgcli.commands.live_view import LiveView
from fgcli.recipe_keys import Recipe
from fgcli.runs.run_directory import RunDirectory

LONG = "wperp-with-the-shared-solver-and-orthogonal-tangents-seed0"


def job(folder: Path, name: str, *, finished: bool = False) -> Job:
    run = RunDirectory(fake_run(folder / name, finished=finished))
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
    done = job(tmp_path, LONG, finished=True)
    display.started(done, 1)
    display.finished(done)
    display.started(job(tmp_path, "backprop-seed0"), 2)
    lines = drawn(display, width)
    assert len(lines) == 8
    assert max(map(len, lines)) <= width
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines[-3:-1]]
    assert cells[0][1:3] == ["0.600 / 0.500", ""]
    assert cells[0][0] == (LONG if width > 60 else "wperp-wit…nts-seed0")
    assert cells[1] == ["backprop-seed0", "0.552 / 0.452", "2/4, try 2", "0 s"]
    assert "accuracy" in lines[3]


@pytest.mark.parametrize("height", [1, 2, 3, 4, 6, 9, 13, 14, 24])
def test_what_is_drawn_is_whole_at_any_height(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int) -> None:
    monkeypatch.setenv("LINES", str(height))
    display = BenchDisplay()
    display.expects(20)
    for number in range(6):
        done = job(tmp_path, f"done-seed{number}", finished=True)
        display.started(done, 1)
        display.finished(done)
    for number in range(12):
        display.started(job(tmp_path, f"{LONG}{number}"), 2)
    lines = drawn(display, 60)
    assert len(lines) <= max(2, height - 1), "one is the cursor's"
    assert lines[0] == "6 of 20 trials finished, 12 under way"
    shown = [line for line in lines if "try 2" in line]
    assert all(f"seed0{number} " in line for number, line in enumerate(shown))
    assert len(shown) >= max(1, height - 14, (height - 8) // 2)
    more = f"and {12 - len(shown)} more"
    assert height <= 3 or len(shown) == 12 or any(more in line for line in lines)


def test_a_table_is_no_higher_than_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "24")
    display = BenchDisplay()
    for number in range(30):
        display.started(job(tmp_path, f"wt-seed{number}"), 1)
    lines = drawn(display, 80)
    assert len(lines) <= 24 - 6  # six finished ones are still to come
    assert "and 20 more" in lines[-2]


class Terminal(Console):
    """One whose width is set, and which calls `meanwhile` once when it is cleared or when it prints after that."""

    def __init__(self, *, at: str, meanwhile: Callable[[], object] = int) -> None:
        super().__init__(width=100, file=io.StringIO(), force_terminal=True)
        self.cleared, self._at, self._meanwhile = False, at, meanwhile

    def clear(self, home: bool = True) -> None:
        super().clear(home)
        self.cleared = True
        self._call("clear")

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*objects, **options)
        if self.cleared:
            self._call("print")

    def _call(self, at: str) -> None:
        if at == self._at:
            self._at = ""
            self._meanwhile()

    def printed(self) -> tuple[str, list[str]]:
        """What was printed before it was cleared, and each different line after that."""
        assert isinstance(self.file, io.StringIO)
        before, _, after = self.file.getvalue().partition(str(Control.clear()))
        after = re.sub(r"\x1b\[[?\d;]*\w", "", after)
        return before, list(dict.fromkeys(filter(None, after.splitlines())))


def narrowed(terminal: Terminal, warn: Callable[[LiveView], None] = lambda _: None) -> LiveView:
    """A view on a terminal that becomes narrower, drawn anew."""
    again = threading.Event()
    view = LiveView(
        terminal, lambda: (again.set() if terminal.cleared else None, Text("x" * terminal.width))[1], transient=True
    )
    view.say("a line that stays")
    view.start()
    warn(view)
    terminal.width = 60
    assert again.wait(60)
    return view


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "warn",
    [
        lambda view: view.say("another"),
        lambda _: print("another", file=sys.stderr),
    ],
    ids=["say", "stderr"],
)
def test_on_a_narrower_terminal_the_screen_is_drawn_anew_below_the_lines_that_stay(
    warn: Callable[[LiveView], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", Tty())
    terminal = Terminal(at="")
    view = narrowed(terminal, warn)
    view.stop()
    before, after = terminal.printed()
    assert "x" * 100 in before
    assert after == ["a line that stays", "another", "x" * 60]
    assert not view.is_on


def test_a_long_line_is_broken_between_words_and_a_command_is_not() -> None:
    terminal = Terminal(at="")
    view = LiveView(terminal, lambda: Text(""), transient=True)
    words, path = 20 * "word ", "a/" * 60
    view.say(f"{words}{path}")
    view.say(f"go on with: fgcli train {words}")
    assert isinstance(terminal.file, io.StringIO)
    lines = terminal.file.getvalue().splitlines()
    assert lines == [words.strip(), path, f"go on with: fgcli train {words}"]


def test_a_warning_from_before_the_view_stays_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fgcli.errors.warned", [])
    monkeypatch.setattr(sys, "stderr", stderr := Tty())
    Warnings(logging.WARNING).handle(logging.makeLogRecord({"msg": "early"}))
    assert stderr.getvalue() == "fg: warning: early\n"
    terminal = Terminal(at="")
    narrowed(terminal).stop()
    assert terminal.printed()[1] == ["fg: warning: early", "a line that stays", "x" * 60]


def test_a_file_of_warnings_has_them_while_a_view_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    terminal = Terminal(at="")
    narrowed(terminal, lambda _: print("another", file=sys.stderr)).stop()
    assert file.getvalue() == "another\n"
    assert "another" not in terminal.printed()[1]


def test_a_stop_while_the_screen_is_drawn_anew_is_one() -> None:
    stops: list[threading.Thread] = []

    def stop() -> None:
        stops.append(threading.Thread(target=lambda: view_of[0].stop()))
        stops[0].start()
        stops[0].join(0.5)  # as much as it can: it has to wait until all is drawn

    view_of: list[LiveView] = []
    view = narrowed(Terminal(at="clear", meanwhile=stop), view_of.append)
    stops[0].join(60)
    assert not view.is_on


def test_a_line_said_while_the_screen_is_drawn_anew_stays() -> None:
    view_of: list[LiveView] = []
    terminal = Terminal(at="print", meanwhile=lambda: view_of[0].say("meanwhile"))
    narrowed(terminal, view_of.append).stop()
    assert terminal.printed()[1] == ["a line that stays", "meanwhile", "x" * 60]
