"""JSON Lines that a kill can tear in their last line only: one write a row. Imports no torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgcli.errors import RunError
from fgcli.files import from_json, to_json, write_atomically


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add one row by one write. RunError when the disk takes only a part of it, which is removed again."""
    line = (to_json(row) + "\n").encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        before = os.fstat(descriptor).st_size
        written = os.write(descriptor, line)
        if written != len(line):
            os.ftruncate(descriptor, before)
            raise RunError(f"cannot write {path}: only {written} of {len(line)} bytes (disk full?)")
    finally:
        os.close(descriptor)


def read_rows(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """All whole rows, and whether a torn last line was left out. RunError for a broken line before the last."""
    if not path.exists():
        return [], False
    # A row ends with its newline: what follows the last one was torn in the write.
    *lines, torn = path.read_bytes().split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = from_json(line.decode())
            if not isinstance(row, dict):
                raise ValueError("not an object")
        except ValueError as error:
            raise RunError(f"{path}, line {number}: not a metrics row ({error})") from error
        rows.append(row)
    return rows, bool(torn)


def rewind_rows(path: Path, step: int) -> tuple[list[dict[str, Any]], bool]:
    """Drop a torn last line and all rows after `step`, in the file too. Returns the rest, and if one was torn."""
    rows, torn = read_rows(path)
    kept = [row for row in rows if row.get("step", 0) <= step]
    if torn or len(kept) < len(rows):
        write_atomically(path, "".join(to_json(row) + "\n" for row in kept))
    return kept, torn
