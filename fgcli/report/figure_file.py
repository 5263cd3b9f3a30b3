"""Figure files: which can be written, and the same bytes each time. Imports nothing heavy."""

import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from fgcli.errors import UsageError

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


def save_figure(figure: "Figure", path: Path, flag: str = "--plot") -> None:
    """Write the figure, without a date in it."""
    import matplotlib

    undated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower())
    with matplotlib.rc_context({"svg.hashsalt": "fg"}):
        try:
            figure.savefig(path, dpi=150, metadata=undated)
        except OSError as error:
            raise UsageError(f"cannot write {flag} {path}: {error.strerror}") from None
