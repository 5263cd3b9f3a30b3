"""`fgcli doctor`: what this installation has, and what it lacks. Heavy imports inside the body."""

import os
import platform
import re
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from fgcli import __version__
from fgcli.commands.shell_init import RC_LINES
from fgcli.extend.extras import version_of

_OF_AN_EXTRA = re.compile(r"([\w.-]+).*;.*extra == ['\"]([\w-]+)['\"]")
_JOB_CONTROL = {*RC_LINES, "sh", "dash", "ksh"}


def doctor() -> None:
    """Show versions, devices, threads, what is optional and missing, plugins that are broken, and the shell's `fg`."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    for name, value in _facts():  # each on one line: a command that is wrapped cannot be pasted
        console.print(Text.assemble((f"{name:14}", "bold"), value), soft_wrap=True)


def _facts() -> Iterator[tuple[str, str]]:
    import torch

    from fgcli.devices import describe, list_devices
    from fgcli.extend.registry import load_registry
    from fgcli.files import cache_folder
    from fgcli.training.environment import PACKAGES

    yield "fgcli", f"{__version__}, in {Path(__file__).parents[1]}"
    yield "python", f"{platform.python_version()}, {platform.platform()}"
    for name in PACKAGES:
        yield name, version_of(name) or "missing"
    for number, device in enumerate(list_devices()):
        yield "devices" if not number else "", f"{device}: {describe(torch.device(device))}"
    asked = os.environ.get("OMP_NUM_THREADS")
    yield "threads", f"{torch.get_num_threads()}{f', by OMP_NUM_THREADS={asked}' if asked else ''}; --threads sets them"
    try:
        listed = requires("fgcli") or []
    except PackageNotFoundError:
        listed = []
    for number, (extra, packages) in enumerate(extras(listed).items()):
        missing = [name for name in packages if version_of(name) is None]
        said = f"missing {', '.join(missing)}: pip install 'fgcli[{extra}]'" if missing else "installed"
        yield "optional" if not number else "", f"{extra}: {said}"
    registry = load_registry()
    names = [str(origin) for origin in registry.origins if origin.distribution != "fgcli"]
    yield "plugins", ", ".join(names) or "none"
    for complaint in registry.complaints():
        yield "", complaint
    yield "cache", str(cache_folder())
    yield "shell", shell_line(os.environ.get("SHELL", ""))


def extras(requirements: Iterable[str]) -> dict[str, list[str]]:
    """The packages of each extra, from a distribution's requirements; without those for development."""
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        if (match := _OF_AN_EXTRA.match(requirement)) and match[2] != "dev":
            found.setdefault(match[2], []).append(match[1])
    return found


def shell_line(path: str) -> str:
    """What `fg` is in the user's shell, and how it becomes this command."""
    name = Path(path).name
    if name not in _JOB_CONTROL:
        return f"{name or 'unknown'}: if fg is job control there, write fgcli"
    offer = f"; so that fg is both: {RC_LINES[name]}" if name in RC_LINES else ""
    where = shutil.which("fgcli")
    return f"{name}: fg is its builtin for job control, write fgcli ({where or 'not on the PATH'}){offer}"
