"""Commands that are printed: whoever pastes one into a shell gets what it says. Imports nothing heavy."""

import os
import shlex
from collections.abc import Iterable


def command_line(
    *words: object, plugins: Iterable[object] = (), own_code: bool = False, folders: Iterable[str] = ()
) -> str:
    """`fgcli` with these words, and what it needs to find the plugins, or code of the user's own, once more.

    `folders` are looked in beside those of PYTHONPATH.

    It is never called `fg`: a shell has an `fg` of its own.
    """
    flags = [part for plugin in plugins for part in ("--plugin", plugin)]
    path = os.pathsep.join(filter(None, (*folders, os.environ.get("PYTHONPATH"))))
    prefix = f"PYTHONPATH={quoted(path)} " if path and (flags or own_code) else ""
    return prefix + " ".join(map(quoted, ("fgcli", *words, *flags)))


def quoted(word: object) -> str:
    """A word for bash and zsh; with anything unprintable in it, bytes that are no UTF-8 too, as $'caf\\xe9'."""
    text = str(word)
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, os.fsencode(text)))}'"


def _escaped(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and chr(byte) not in "'\\" else f"\\x{byte:02x}"
