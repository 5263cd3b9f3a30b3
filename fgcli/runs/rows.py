"""JSON Lines that a kill can tear in their last line only: one write a row. Imports no torch."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fgcli.errors import RunError, WriteError
from fgcli.files import from_json, read_regular, to_json, write_atomically, writing
from fgcli.runs.record import name_of
from fgcli.runs.results import MetricsRow

LIMIT = 512 * 2**20  # bytes


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add one row by one write. WriteError when the disk takes none of it, or a part, which is removed again."""
    line = (to_json(row) + "\n").encode()
    with writing(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
        try:
            before = os.fstat(descriptor).st_size
            written = os.write(descriptor, line)
            if written != len(line):
                os.ftruncate(descriptor, before)
                raise WriteError(f"cannot write {path}: only {written} of {len(line)} bytes (disk full?)")
        finally:
            os.close(descriptor)


STEP = name_of(MetricsRow.step)
"""What every row of a run has."""


def read_rows(path: Path, key: str = STEP, of: type = int) -> tuple[list[dict[str, Any]], bool]:
    """All whole rows, each with a `key` of that type, and whether a torn last line was left out.

    RunError for a broken line before the last.
    """
    if not path.exists():
        return [], False
    try:
        content = read_regular(path, LIMIT)
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
    # A row ends with its newline: what follows the last one was torn in the write.
    *lines, torn = content.split(b"\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = from_json(line.decode())
            if not isinstance(row, dict) or type(row.get(key)) is not of:
                raise ValueError(f"it must be an object with a {key}")
        except ValueError as error:
            raise RunError(f"{path}, line {number}: not such a row ({error})") from error
        rows.append(row)
    return rows, bool(torn)


def rewind_rows(path: Path, step: int) -> tuple[list[dict[str, Any]], bool]:
    """Drop a torn last line and all rows after `step`, in the file too. Returns the rest, and if one was torn.

    The file is always written anew: should it have another name somewhere (a backup of hard links), rows that are
    added later do not appear there. WriteError, with the file as it was, when the disk is full, say.
    """
    rows, torn = read_rows(path)
    kept = [row for row in rows if row[STEP] <= step]
    if path.exists():
        with writing(path):
            write_atomically(path, "".join(to_json(row) + "\n" for row in kept))
    return kept, torn
