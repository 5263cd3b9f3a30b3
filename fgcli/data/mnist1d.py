"""MNIST-1D (Greydanus and Kobak, https://arxiv.org/abs/2011.14439), generated offline, cached, checked."""

import contextlib
import hashlib
import logging
import random
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import torch
from torch import Tensor

from fgcli.data import cache
from fgcli.data.dataset import Dataset
from fgcli.data.options import Mnist1dOptions
from fgcli.files import cache_folder

_log = logging.getLogger("fgcli")

DEFAULT_FINGERPRINT = "ce5aaaa2f6e5e23cd5a3e678878b1c7f7da3e678aa570f20bdea248f908a7069"
"""`fingerprint` of the default data set, which all published numbers are measured on."""

_PARTS = ("train_inputs", "train_targets", "test_inputs", "test_targets")
_one_at_a_time = threading.Lock()


def mnist1d(options: Mnist1dOptions) -> Dataset:
    """Signals of `final_seq_length` points, mean 0 and standard deviation 1 over all samples; ten classes.

    float32 inputs `[n, final_seq_length]`. The defaults give 4,000 train and 1,000 test samples of 40 points.
    """
    path = cache_path(options)
    tensors = cache.load(path)
    if tensors is None:
        tensors = _generate(options)
        cache.save(path, tensors)
    if options == Mnist1dOptions():
        found = fingerprint(tensors)
        if found != DEFAULT_FINGERPRINT:
            _log.warning(
                "mnist1d: the default data set differs from the one that published numbers are measured on "
                "(fingerprint %s, expected %s; mnist1d %s, numpy %s, scipy %s)",
                found[:12],
                DEFAULT_FINGERPRINT[:12],
                *map(version, ("mnist1d", "numpy", "scipy")),
            )
    return Dataset("mnist1d", *(tensors[name] for name in _PARTS), classes=10)


def cache_path(options: Mnist1dOptions) -> Path:
    """The cache file of these options, under the installed version of mnist1d."""
    key = f"{options.model_dump_json()} mnist1d {version('mnist1d')}"
    return cache_folder() / f"mnist1d-{hashlib.sha256(key.encode()).hexdigest()[:16]}.safetensors"


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """sha256 of the data with inputs rounded to 1e-4: another CPU's last bits do not change it."""
    return cache.digest(
        {
            name: (tensor.double() * 1e4).round().int() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
    )


def _generate(options: Mnist1dOptions) -> dict[str, Tensor]:
    # Only here: this takes over a second and brings pyplot. Never get_dataset: it downloads and unpickles.
    from mnist1d.data import make_dataset

    with _global_random_state_kept():
        raw: dict[str, Any] = make_dataset(SimpleNamespace(**options.model_dump()))
    return {
        "train_inputs": _tensor(raw["x"], torch.float32),
        "train_targets": _tensor(raw["y"], torch.int64),
        "test_inputs": _tensor(raw["x_test"], torch.float32),
        "test_targets": _tensor(raw["y_test"], torch.int64),
    }


def _tensor(array: numpy.ndarray, dtype: torch.dtype) -> Tensor:
    # shuffle_seq leaves the samples strided, which torch would keep.
    return torch.tensor(numpy.ascontiguousarray(array), dtype=dtype)


@contextlib.contextmanager
def _global_random_state_kept() -> Iterator[None]:
    """make_dataset seeds and uses the global generators of `random` and numpy: give them back as they were."""
    with _one_at_a_time:
        python_state, numpy_state = random.getstate(), numpy.random.get_state()
        try:
            yield
        finally:
            random.setstate(python_state)
            numpy.random.set_state(numpy_state)
