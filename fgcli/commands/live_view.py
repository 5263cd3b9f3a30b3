"""What is drawn again and again on a terminal, below lines that stay, and stays whole when the terminal is resized."""

import sys
from collections import deque
from collections.abc import Callable
from textwrap import wrap
from threading import Event, RLock, Thread
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderResult
from rich.control import Control
from rich.live import Live
from rich.text import Text

from fgcli import errors

KEPT = 200  # lines
EVERY_S = 0.25


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a standard stream is one; Python has None for one that was closed from the start."""
    return stream is not None and stream.isatty()


class LiveView:
    """A rich Live. A narrower terminal wraps the lines last drawn, nobody knows into how many: the screen is cleared
    then, and the lines that stay are printed once more: earlier warnings, those of `say`, and all that is printed
    while this is on.

    Any thread may say something or stop this. One lock is held while the screen is drawn, so that no one sees the
    moment between two Lives. It is taken before rich's own locks, never within them.
    """

    def __init__(self, console: Console, draw: Callable[[], RenderableType], *, transient: bool) -> None:
        self._console, self._draw, self._transient = console, draw, transient
        self._said: deque[RenderableType] = deque(maxlen=KEPT)
        self._width = console.width
        self._lock, self._stopped = RLock(), Event()
        self._live = self._new()

    @property
    def is_on(self) -> bool:
        with self._lock:
            return self._live.is_started

    def start(self) -> None:
        """Draw from now on, where this is a terminal."""
        if self._console.is_terminal:
            if is_terminal(sys.stderr):
                self._said.extendleft(map(Text, reversed(errors.warned)))
            self._live.start()
            Thread(target=self._refresh, daemon=True).start()

    def stop(self) -> None:
        with self._lock:
            self._stopped.set()
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        with self._lock:
            if not self._live.is_started:  # which keeps it otherwise
                self._said.append(_Line(line))
            self._console.print(_Line(line), soft_wrap=True)

    def _new(self) -> Live:
        return _Recording(
            self._said,
            get_renderable=self._draw,
            console=self._console,
            auto_refresh=False,
            transient=self._transient,
            redirect_stderr=is_terminal(sys.stderr),  # what goes into a file goes there
        )

    def _refresh(self) -> None:
        while not self._stopped.wait(EVERY_S):
            with self._lock:
                if not self._stopped.is_set():
                    self._draw_anew_if_narrower()
                    self._live.refresh()

    def _draw_anew_if_narrower(self) -> None:
        before, self._width = self._width, self._console.width
        if self._width < before:
            self._live.stop()
            self._console.clear()
            for line in [*self._said.copy()][-self._console.height :]:  # a copy, as others append to it
                self._console.print(line, soft_wrap=True)
            self._live = self._new()
            self._live.start()


class _Line:
    """On a terminal broken between words; not where there is a command, which is copied."""

    def __init__(self, line: str) -> None:
        self._line = line

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        whole = not console.is_terminal or "fgcli " in self._line
        lines = [self._line] if whole else wrap(self._line, options.max_width, break_long_words=False)
        yield Text("\n".join(lines))


class _Recording(Live):
    """Keeps what is printed above it, by whatever prints."""

    def __init__(self, said: deque[RenderableType], **options: Any) -> None:
        self._said = said
        super().__init__(**options)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        self._said.extend(one for one in renderables if not isinstance(one, Control))
        return super().process_renderables(renderables)
