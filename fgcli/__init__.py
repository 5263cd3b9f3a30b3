"""fg: gradient estimation without backpropagation."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "ForwardGradient":  # with torch, which the command line does without for as long as it can
        return import_module("fgcli.api").ForwardGradient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
