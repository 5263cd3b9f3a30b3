"""fg: gradient estimation without backpropagation.

All that a script or a plugin needs is here. Each name is imported when it is first asked for: `import fgcli` alone
imports no torch. The names and their modules are listed once, in __init__.pyi, which type checkers read too.
"""

from functools import cache
from importlib import import_module
from typing import Any

__version__ = "0.1.0"


@cache
def _homes() -> dict[str, str]:
    """The module that each public name comes from."""
    import re
    from pkgutil import get_data

    stub = (get_data(__name__, "__init__.pyi") or b"").decode()
    return {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as \2$", stub, re.MULTILINE)}


def __getattr__(name: str) -> Any:
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_homes()[name]), name)


def __dir__() -> list[str]:
    return sorted([*_homes(), "__version__"])
