"""The flags of `fg train` for commands that may train first. Imports nothing heavy."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fgcli.commands.train import train

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
