"""Writing that a kill cannot tear, strict JSON, and the user's cache folder. Imports no torch."""

import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fgcli.errors import UsageError, WriteError

JSON_LIMIT = 64 * 2**20  # bytes; the largest JSON file of ours that is read


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a file. OSError when it cannot be read; ValueError when it is no regular file, or above `limit`."""
    with _opened(path) as descriptor:
        if os.fstat(descriptor).st_size > limit:
            raise ValueError(f"larger than {limit} bytes")
        return b"".join(iter(lambda: os.read(descriptor, 2**20), b""))


def require_regular(path: Path) -> None:
    """OSError when it cannot be read; ValueError when it is no regular file."""
    with _opened(path):
        pass


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    # O_NONBLOCK: opening a pipe that nobody writes to must not wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("not a regular file")
        yield descriptor
    finally:
        os.close(descriptor)


def refuse_impossible(path: Path, called: str) -> None:
    """UsageError where nothing is at a path, and nothing can be: a name that is too long, links in a circle.

    `called` is how the caller was given it, which the message begins with.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error  # a null byte
        raise UsageError(f"{called} {path}: {reason}; give another path") from error


def to_json(value: object) -> str:
    """One line of strict JSON: no NaN or infinity (ValueError), floats that read back to the same bits."""
    return json.dumps(value, allow_nan=False)


def from_json(text: str) -> Any:
    """The value of strict JSON; ValueError for NaN, infinity and equal keys, which the standard library accepts."""

    def refuse(token: str) -> Any:
        raise ValueError(f"{token} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a key appears twice")
        return content

    try:
        return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file. OSError when it cannot be read, ValueError when it is not strict JSON."""
    return from_json(read_regular(path, JSON_LIMIT).decode())


def sync_file(path: Path) -> None:
    """Bring what was written to a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(temporary: Path, path: Path) -> None:
    """Rename a finished temporary file to its name; afterwards the name holds the old or the new file, whole."""
    sync_file(temporary)
    os.replace(temporary, path)
    sync_file(path.parent)


def temporary_name(path: Path) -> Path:
    """Where a process writes a file before it gets its name: hidden, in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def half_written(path: Path) -> list[Path]:
    """What killed processes left of a file that they were writing."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    return [entry for entry in path.parent.iterdir() if pattern.fullmatch(entry.name)]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new one, never a part.

    OSError, with a file's name, when it cannot be written.
    """
    temporary = temporary_name(path)
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # made here: through a link of that name, another file would be written
            file.write(content.encode() if isinstance(content, str) else content)
        put_in_place(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError into the WriteError of that file."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}") from error


def make_folder(path: Path, called: str) -> None:
    """Make it, and what it lies in, where it is missing. UsageError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = "" if error.filename == str(path) else f": {error.filename}"
        raise UsageError(f"cannot make {called} {path}{where}: {error.strerror}") from error


def cache_folder() -> Path:
    """`$FG_CACHE_DIR`, or the cache folder that the operating system gives to `fg`."""
    if named := os.environ.get("FG_CACHE_DIR"):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("fg"))
