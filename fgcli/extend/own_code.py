"""The user's own code that this process has imported, so that a run's record says which text it was. No torch."""

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OF_FG = "fgcli"
PLUGIN = "--plugin"
"""The mark of a file that was given by this flag."""
_INSTALLED = {"site-packages", "dist-packages"}


def own_code(plugins: Iterable[str]) -> dict[str, dict[str, str]]:
    """By module: its file, and the sum of it. Left out is what is fg's, Python's, or installed and of no plugin.

    `plugins` are the modules of plugins, of which all in their package is looked at, installed or not, or their files,
    which are marked as such.
    """
    plugins = list(plugins)
    packages, files = {_top(name) for name in plugins} - {OF_FG, ""}, {os.path.realpath(name) for name in plugins}
    of_python = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
    found: dict[str, dict[str, str]] = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or _top(name) == OF_FG or name.startswith("__"):
            continue
        if (_top(name) in packages or _is_own(file, of_python)) and (total := checksum(file)):
            found[name] = {"file": file, "sha256": total} | ({"flag": PLUGIN} if file in files else {})
    return found


def changed_files(recorded: Mapping[str, Any]) -> list[str]:
    """The files of an `own_code` of another process whose text is another one now; not those that are gone."""
    entries = [one for one in recorded.values() if isinstance(one, Mapping)]
    return [str(one.get("file")) for one in entries if checksum(str(one.get("file"))) not in (None, one.get("sha256"))]


def checksum(file: str) -> str | None:
    """The beginning of the file's sha256; None where it cannot be read."""
    try:
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]
    except (OSError, ValueError):
        return None


def _top(name: str) -> str:
    return name.partition(".")[0]


def _is_own(file: str, of_python: tuple[str, ...]) -> bool:
    return file.endswith(".py") and not file.startswith(of_python) and _INSTALLED.isdisjoint(file.split(os.sep))
