"""Where a run took place, and on which samples: versions, device, threads, the commit of fg's source."""

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fgcli import __version__
from fgcli.data.dataset import Dataset
from fgcli.devices import describe
from fgcli.extend.extras import version_of
from fgcli.gradient.processes import digest_of
from fgcli.runs.environment import Environment

PACKAGES = ("torch", "numpy", "scipy", "safetensors", "pydantic", "mnist1d", "scikit-learn")


def describe_environment(device: torch.device, **made_with: Any) -> Environment:
    """Of this process, with what `Environment.of` asks for beside it. Code that a later step imports is not known."""
    versions = {
        "fg": __version__,
        "git_commit": _commit(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version_of(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
    }
    return Environment.of(
        versions,
        device=str(device),
        device_name=describe(device),
        threads=torch.get_num_threads(),
        command=sys.argv,
        **made_with,
    )


def digest(dataset: Dataset) -> str:
    """The beginning of the sha256 of all samples, as this machine has read or generated them."""
    splits = (dataset.train_inputs, dataset.train_targets, dataset.test_inputs, dataset.test_targets)
    return digest_of(splits)[:12]


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
