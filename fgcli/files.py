"""Writing that a kill cannot tear, strict JSON, and the user's cache folder. Imports no torch."""

import json
import os
from pathlib import Path
from typing import Any

JSON_LIMIT = 64 * 2**20  # bytes; the largest JSON file of ours that is read


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
    if path.stat().st_size > JSON_LIMIT:
        raise ValueError(f"larger than {JSON_LIMIT} bytes")
    return from_json(path.read_text(encoding="utf-8"))


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


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader, or a kill at any moment, sees the old content or the new one, never a part."""
    temporary = temporary_name(path)
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def cache_folder() -> Path:
    """`$FG_CACHE_DIR`, or the cache folder that the operating system gives to `fg`."""
    if named := os.environ.get("FG_CACHE_DIR"):
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("fg"))
