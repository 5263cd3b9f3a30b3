"""What is named by where it is: datasets by a path, `--dataset flowers.csv`, and models whose entry has a prefix,
`--model hf:FOLDER`. Imports no torch."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgcli.extend.entry import Entry
from fgcli.extend.plugins import Registered
from fgcli.files import refuse_impossible


@dataclass(frozen=True)
class PathEntry(Entry):
    """A file or folder, as an entry of the dataset that reads it."""

    def __post_init__(self) -> None:
        """Its name is its path."""

    def load(self) -> Callable[..., Any]:
        """What gives the dataset of the options."""
        target = super().load()
        return lambda options: target(options, Path(self.name))


@dataclass(frozen=True)
class PrefixedEntry(Entry):
    """`PREFIX:WHAT`, as an entry of the model that has the prefix."""

    def __post_init__(self) -> None:
        """Its name is the whole."""

    def load(self) -> Callable[..., Any]:
        """What gives the model of the options."""
        target, what = super().load(), self.name.partition(":")[2]
        return lambda options, *given: target(options, what, *given)


def find_prefixed(name: str, models: Iterable[Registered]) -> Registered | None:
    """The model whose prefix the name begins with; None where there is none."""
    prefix, colon, what = name.partition(":")
    for one in models:
        if colon and what and one.entry.prefix == prefix:
            return one._replace(entry=PrefixedEntry(name, one.entry.target, one.entry.summary, one.entry.options))
    return None


def find_data(name: str, readers: Iterable[Registered], where: str) -> Registered | None:
    """The dataset that a path leads to, by the reader with the longest suffix that fits; None where none does."""
    refuse_impossible(Path(name), where or "dataset")
    fitting = [(len(suffix), one) for one in readers for suffix in one.entry.suffixes if _fits(Path(name), suffix)]
    if not fitting:
        return None
    _, one = max(fitting, key=lambda pair: pair[0])
    return one._replace(entry=PathEntry(name, one.entry.target, one.entry.summary, one.entry.options))


def _fits(path: Path, suffix: str) -> bool:
    if suffix.startswith("/"):
        return path.is_dir() and (path / suffix[1:]).exists()
    return path.name.lower().endswith(suffix)
