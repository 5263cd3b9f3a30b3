"""Files that are asked for: which can be written; and figures with the same bytes each time. Imports nothing heavy."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fgcli.errors import UsageError, exception_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")


def check_figure(path: Path, flag: str = "--plot") -> None:
    """UsageError unless a figure can be written there; leaves nothing behind."""
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{flag} is {path}; its name must end in {', '.join(FORMATS)}")
    check_file(path, flag)


def check_file(path: Path, flag: str) -> None:
    """UsageError unless a file can be written there; leaves nothing behind."""
    try:
        kind = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        kind = stat.S_IFREG  # a new file, if its folder can hold one
    except OSError as error:
        raise UsageError(f"cannot write {flag} {path}: {error.strerror}") from None
    if not stat.S_ISREG(kind):
        raise UsageError(f"{flag} is {path}, {'a folder' if stat.S_ISDIR(kind) else 'no regular file'}; name a file")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"cannot write {flag} {path}: {path.parent}: {error.strerror}") from None


def check_page(path: Path) -> None:
    """UsageError unless --html can be written, and is no file yet but a page."""
    check_file(path, "--html")
    if path.exists() and not path.read_bytes()[:15].lower().startswith(b"<!doctype html"):
        raise UsageError(f"--html is {path}, which exists and is no page; give another name, or remove it")


def check_new(path: Path) -> None:
    """UsageError unless --out can be written, and is no file yet."""
    check_file(path, "--out")
    if path.exists():
        raise UsageError(f"--out {path} exists; give another name, or remove that file")


@contextmanager
def library_defaults() -> Iterator[None]:
    """Within, matplotlib draws as its defaults say, whatever the user's matplotlibrc, styles and backend are.

    Import matplotlib within, too: with an unknown name in MPLBACKEND it cannot be imported.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    except Exception as cause:
        raise UsageError(f"matplotlib cannot be imported: {exception_text(cause)}; see to its matplotlibrc") from cause
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    # Not by rcdefaults, which reads the user's styles first.
    defaults: dict[Any, Any] = {
        key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")
    }
    defaults["svg.hashsalt"] = "fg"
    with matplotlib.rc_context(defaults):
        yield


def plain_text(text: str) -> str:
    """Text that matplotlib does not read as mathematics, nor as the label of a line that no legend has."""
    return f" {text}".replace("$", r"\$") if text.startswith("_") else text.replace("$", r"\$")


def save_figure(figure: "Figure", path: Path, flag: str = "--plot") -> None:
    """Write the figure, without a date in it; within `library_defaults`."""
    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    try:
        figure.savefig(path, dpi=150, metadata=undated)
    except OSError as error:
        raise UsageError(f"cannot write {flag} {path}: {error.strerror}") from None
