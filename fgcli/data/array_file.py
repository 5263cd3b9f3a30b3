"""A dataset in a .npz file."""

import re
from pathlib import Path

import numpy

from fgcli.data.arrays import read_arrays
from fgcli.data.dataset import Dataset
from fgcli.data.options import ArrayOptions
from fgcli.data.own import Samples, own_dataset
from fgcli.errors import UsageError

_SPLIT = r"(train|test)"
_NAMES = {"inputs": ("inputs", "x"), "targets": ("targets", "y")}
ALLOWED = "inputs and targets (or x and y), or train_inputs, train_targets, test_inputs and test_targets"


def array_file(options: ArrayOptions, path: Path) -> Dataset:
    """Arrays by their names. UsageError for others than these, or of shapes that no samples have."""
    found: dict[str, dict[str, numpy.ndarray]] = {}
    arrays = read_arrays(path)
    for name, array in arrays.items():
        split, what = _place(name)
        if what is None or what in found.get(split, {}):
            raise UsageError(f"{path} holds {', '.join(arrays)}; it must hold {ALLOWED}")
        found.setdefault(split, {})[what] = array
    whole = {what for parts in found.values() for what in parts} == set(_NAMES) and all(map(len, found.values()))
    if not whole or found.keys() not in ({""}, {"train", "test"}) or any(len(parts) != 2 for parts in found.values()):
        raise UsageError(f"{path} holds {', '.join(arrays) or 'nothing'}; it must hold {ALLOWED}")
    splits = {name: _samples(parts, options, path) for name, parts in found.items()}
    first = splits.get("train") or splits[""]
    return own_dataset(str(path), first, splits.get("test"), options)


def _place(name: str) -> tuple[str, str | None]:
    """The split and the part that an array's name says."""
    text = name.lower()
    match = re.fullmatch(rf"(?:{_SPLIT}_)?(\w+?)(?:_{_SPLIT})?", text)
    if match is None or (match[1] and match[3]):
        return "", None
    part = next((what for what, names in _NAMES.items() if match[2] in names), None)
    return match[1] or match[3] or "", part


def _samples(parts: dict[str, numpy.ndarray], options: ArrayOptions, path: Path) -> Samples:
    inputs, targets = parts["inputs"], parts["targets"]
    if inputs.ndim < 1 or targets.ndim < 1:
        raise UsageError(f"{path}: an array without axes holds no samples")
    if options.shape:
        try:
            inputs = inputs.reshape(len(inputs), *options.shape)
        except ValueError:
            raise UsageError(
                f"{path}: a sample has shape {list(inputs.shape[1:])}, which cannot be {options.shape}: shape"
            ) from None
    return Samples(inputs, targets)
