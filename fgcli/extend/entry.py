"""What a plugin registers: a name and where to find the thing, not the thing itself. Imports no torch."""

import re
from dataclasses import dataclass, field
from functools import reduce
from importlib import import_module
from typing import Any, Literal

from fgcli.errors import UsageError, exception_text
from fgcli.extend.options import Options

Rank = Literal["rank"]
"""The value of an option `k` that stands for the rank of what it counts dimensions of."""

# Names turn up in file names, tables and flags.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Entry:
    """One thing that a plugin adds, under its name. Listing and checking need no more than this.

    `target` is "module:attribute", imported by `load` alone. A malformed entry is a ValueError or TypeError.
    """

    name: str
    target: str
    summary: str
    options: type[Options] = field(default=Options)
    suffixes: tuple[str, ...] = ()
    """Of a dataset that is read from a path, which its target is called with after its options: how such a path ends.
    `/` is any folder, `/NAME` one that holds a file of that name."""
    prefix: str = ""
    """Of a model that is named `PREFIX:WHAT`, which its target is called with after its options: a folder, say."""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ValueError(f"name is {self.name!r}; it must be letters, digits, '.', '_' and '-'")
        if not (isinstance(self.target, str) and TARGET.fullmatch(self.target)):
            raise ValueError(f"target of {self.name} is {self.target!r}; it must be 'module:attribute'")
        if not (isinstance(self.summary, str) and self.summary and self.summary.isprintable()):
            raise ValueError(f"summary of {self.name} is {self.summary!r}; it must be one line of text")
        if not (isinstance(self.options, type) and issubclass(self.options, Options)):
            raise TypeError(f"options of {self.name} is {self.options!r}; it must be a subclass of Options")

    def load(self) -> Any:
        """Import the target. torch is imported here at the earliest.

        Returns:
            What `target` names, to be called with an instance of `options`.

        Raises:
            UsageError: with the cause, where it cannot be imported.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return reduce(getattr, attribute.split("."), import_module(module))
        except (Exception, SystemExit) as cause:
            message = f"{self.name} cannot be loaded from {self.target}: {exception_text(cause)}"
            raise UsageError(message) from cause
