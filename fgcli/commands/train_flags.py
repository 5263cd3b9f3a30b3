"""The flags that analyses share: their own, and those of `fg train`, as they may train first. Imports nothing heavy."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from fgcli.commands.train import train

Runs = Annotated[
    list[Path] | None, typer.Argument(help="Runs to look at; without one, the flags of train say what to train.")
]
Epochs = Annotated[
    str | None,
    typer.Option(
        "--epochs",
        help="Epochs whose checkpoints are looked at (default: the last); with the flags of train it trains to the "
        "last of them.",
        metavar="N,N,…",
    ),
]
Batches = Annotated[int, typer.Option("--batches", help="Training batches to average over.", metavar="N")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else, to standard output.")
]

NOT_SHARED = ("resume", "json", "quiet", "sink", "sink_option")


def with_train_flags(*, leave_out: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the command has the flags of train after its own, but for `leave_out`.

    They come to it as one mapping, `train_flags`, by the names of train's parameters.
    """
    hints = inspect.get_annotations(train)
    shared = [
        parameter
        for name, parameter in inspect.signature(train).parameters.items()
        if name not in (*leave_out, *NOT_SHARED)
    ]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [one for name, one in inspect.signature(command).parameters.items() if name != "train_flags"]

        @functools.wraps(command)
        def flagged(**given: Any) -> None:
            names = {parameter.name for parameter in shared}
            flags = {name: value for name, value in given.items() if name in names}
            command(**{name: value for name, value in given.items() if name not in names}, train_flags=flags)

        flagged.__dict__["__signature__"] = inspect.Signature([*own, *shared])
        annotations = {one.name: hints[one.name] for one in shared}
        flagged.__annotations__ = {one.name: one.annotation for one in own} | annotations | {"return": None}
        return flagged

    return decorate
