"""timm without torchvision, which its data loading imports and its models do not use."""

import importlib.util
import sys
from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

MODULES = ("", ".transforms", ".transforms.functional", ".datasets", ".datasets.folder", ".ops", ".ops.misc", ".models")


class _Nothing(type):
    def __getattr__(cls, name: str) -> Any:
        return name


class _Stub(ModuleType):
    __path__: MutableSequence[str] = []  # noqa: RUF012

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


@contextmanager
def torchvision_or_stub() -> Iterator[None]:
    """Within it torchvision can be imported; where there is none, its names stand for nothing."""
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    made = {f"torchvision{name}": _Stub(f"torchvision{name}") for name in MODULES}
    for name, module in made.items():
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(made[parent], own, module)
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]
