"""The user's cache of generated data: safetensors files that carry the sha256 of what they hold.

The sum lies in the file itself, not beside it, so that one rename replaces both and two processes that
write at once cannot leave one's data with the other's sum. A cache is never needed: whatever cannot be
read counts as absent, and what cannot be written is left unwritten.
"""

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from fgcli.files import write_atomically

_log = logging.getLogger("fgcli")


def digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and contents, in the order of the names."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.numpy().tobytes())
    return total.hexdigest()


def load(path: Path) -> dict[str, Tensor] | None:
    """What `save` wrote there, or None: silently if it cannot be read, with a warning if it is damaged."""
    try:
        path.open("rb").close()  # safetensors reports a missing folder and a damaged file alike
    except OSError as error:
        _log.debug("no cached data at %s: %s", path, error)
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            # Copies: the tensors would lie in the mapped file, which another process may replace.
            # And keys(), as a safe_open cannot be iterated.
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            stated = (file.metadata() or {}).get("sha256")
    except (safetensors.SafetensorError, OSError) as error:
        _log.warning("cached data %s is damaged (%s); generating it anew", path, error)
        return None
    if stated != digest(tensors):
        _log.warning("cached data %s is damaged (its sha256 differs); generating it anew", path)
        return None
    return tensors


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write atomically: after a crash the path holds the old content or the new, never half of it."""
    content = safetensors.torch.save(dict(tensors), metadata={"sha256": digest(tensors)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    except OSError as error:
        _log.debug("data not cached at %s: %s", path, error)
