"""What people see when something is wrong: one line, and an exit code. Imports neither torch nor pydantic."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

_SURROGATE = re.compile("[\ud800-\udfff]")

warned: list[str] = []
"""The warnings printed so far: a live view that clears the screen prints them once more."""


class FgError(Exception):
    """A fault with one line for people: what was given, what is allowed, the mend.

    Control characters are escaped, so whatever a file or a plugin put into the message stays on that line.
    """

    exit_code: int = 2

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class UsageError(FgError):
    """Bad input, found before anything was written."""


class PluginMissing(UsageError):
    """Something is of plugin files that are not in use: each has to be given once more.

    `folders` hold the user's other modules, which are not found from here.
    """

    def __init__(self, message: str, files: Sequence[str], folders: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.files, self.folders = tuple(files), tuple(folders)


class RunError(FgError):
    """A known fault in the middle of a run."""

    exit_code = 1


class WriteError(RunError):
    """A file could not be written: a full disk, say. What was written before is whole."""


def one_line(text: str) -> str:
    """`text` with line breaks and all that a terminal would not print as it stands escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in writable(text))


def writable(text: str) -> str:
    """`text` with what UTF-8 has not escaped: a byte of a file's name, say, that is no UTF-8 is `\\xe9`."""
    return _SURROGATE.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"  # as os.fsdecode has bytes


def exception_text(error: BaseException, limit: int = 300) -> str:
    """`TypeError: what it says`, cut at `limit` characters; also of an exception that fails to say anything."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = f"{type(error).__name__}, which has no text of its own"
    return text if len(text) <= limit else text[: limit - 1] + "…"


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UsageError:
    """The error for a name that does not exist: the nearest spelling and the known ones.

    `kind` may carry its owner: "option of method wperp". `where` is a place in a file or a flag.
    """
    names = sorted(known)
    what, of, owner = kind.partition(" of ")
    prefix = f"{where}: " if where else ""
    given = f"{prefix}unknown {what} {name!r}{of}{owner}"
    if not names:
        return UsageError(f"{given}; there are none")
    folded = {known_name.lower(): known_name for known_name in names}
    near = get_close_matches(name.lower(), folded, n=1)
    plural = "es" if what.endswith("s") else "s"
    hint = f"did you mean {folded[near[0]]!r}? " if near else ""
    return UsageError(f"{given}; {hint}known {what}{plural}: {', '.join(names)}")
