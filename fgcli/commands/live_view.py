"""What is drawn again and again on a terminal, below lines that stay, and stays whole when the terminal is resized."""

from collections import deque
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

KEPT = 20  # lines


class LiveView:
    """A rich Live. A narrower terminal wraps the lines last drawn, nobody knows into how many: the screen is cleared
    then, and the lines that stay are printed once more."""

    def __init__(self, console: Console, draw: Callable[[], RenderableType], *, transient: bool) -> None:
        self._console, self._draw, self._transient = console, draw, transient
        self._said: deque[str] = deque(maxlen=KEPT)
        self._width = console.width
        self._live = self._new()

    @property
    def is_on(self) -> bool:
        return self._live.is_started

    def start(self) -> None:
        """Draw from now on, where this is a terminal."""
        if self._console.is_terminal:
            self._live.start()

    def stop(self) -> None:
        while self.is_on:  # another may have begun meanwhile
            self._live.stop()

    def say(self, line: str) -> None:
        """A line that stays."""
        self._said.append(line)
        self._console.print(Text(line), soft_wrap=True)

    def _new(self) -> Live:
        return Live(get_renderable=self._drawn, console=self._console, refresh_per_second=4, transient=self._transient)

    def _drawn(self) -> RenderableType:
        before, self._width = self._width, self._console.width
        if self._width < before and self._live.is_started:
            old, self._live = self._live, self._new()
            old.stop()
            self._console.clear()
            for line in self._said:
                self._console.print(Text(line), soft_wrap=True)
            self._live.start()
        return self._draw()
