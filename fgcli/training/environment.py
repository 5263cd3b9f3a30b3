"""Where a run took place: versions, device, threads, and the commit of fg's source."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fgcli import __version__
from fgcli.devices import describe

PACKAGES = ("torch", "numpy", "scipy", "safetensors", "pydantic", "mnist1d", "scikit-learn")


def describe_environment(device: torch.device, plugins: Mapping[str, str]) -> dict[str, object]:
    """The content of environment.json. `plugins` says where the run's method, dataset, model and optimiser are from."""
    return {
        "fg": __version__,
        "git_commit": _commit(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "device": str(device),
        "device_name": describe(device),
        "threads": torch.get_num_threads(),
        "plugins": dict(plugins),
        "command": sys.argv,
    }


# What the last bits of a run depend on, as far as users meet it: not the commit, which changes with every edit.
_DECISIVE = ("fg", "python", "torch", "numpy", "scipy", "cuda", "device_name", "threads")


def changed(begun: Mapping[str, object], now: Mapping[str, object]) -> dict[str, tuple[object, object]]:
    """What of two environments differs so that the numbers of a run may, too: its two values by name.

    What either of them does not know is left out.
    """
    pairs = {name: (begun.get(name), now.get(name)) for name in _DECISIVE}
    return {name: (old, new) for name, (old, new) in pairs.items() if None not in (old, new) and old != new}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit(root: Path) -> str | None:
    """The commit of fg's checkout, with "-dirty" after it where files differ; None for an installed fg."""
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
