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
class PlacedEntry(Entry):
    """A file or folder, as an entry of the dataset that reads it; or `PREFIX:WHAT`, of the model with that prefix."""

    what: Path | str = ""

    def __post_init__(self) -> None:
        """Its name is what the user gave."""

    def load(self) -> Callable[..., Any]:
        """What gives the dataset or the model of the options."""
        target = super().load()
        return lambda options, *given: target(options, self.what, *given)


def _placed(one: Registered, name: str, what: Path | str) -> Registered:
    entry = one.entry
    return one._replace(entry=PlacedEntry(name, entry.target, entry.summary, entry.options, what=what))


def find_prefixed(name: str, models: Iterable[Registered]) -> Registered | None:
    """The model whose prefix the name begins with; None where there is none."""
    prefix, colon, what = name.partition(":")
    for one in models:
        if colon and what and one.entry.prefix == prefix:
            return _placed(one, name, what)
    return None


def find_data(name: str, readers: Iterable[Registered], where: str) -> Registered | None:
    """The dataset that a path leads to, by the reader with the longest suffix that fits; None where none does."""
    refuse_impossible(Path(name), where or "dataset")
    fitting = [(len(suffix), one) for one in readers for suffix in one.entry.suffixes if _fits(Path(name), suffix)]
    if not fitting:
        return None
    _, one = max(fitting, key=lambda pair: pair[0])
    return _placed(one, name, Path(name))


def _fits(path: Path, suffix: str) -> bool:
    if suffix.startswith("/"):
        return path.is_dir() and (path / suffix[1:]).exists()
    return path.name.lower().endswith(suffix)
