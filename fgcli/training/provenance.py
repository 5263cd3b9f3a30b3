"""What a run's numbers are made with, beside versions and plugins: the user's code, and the data."""

import hashlib

import torch

from fgcli.data.dataset import Dataset
from fgcli.extend.own_code import own_code
from fgcli.extend.registry import Registry
from fgcli.runs.made_with import CODE, DATA


def provenance(dataset: Dataset, registry: Registry) -> dict[str, object]:
    """For environment.json. Of code that a later step imports, nothing is known."""
    return {CODE: own_code(origin.module for origin in registry.origins), DATA: digest(dataset)}


def digest(dataset: Dataset) -> str:
    """The beginning of the sha256 of all samples, as this machine has read or generated them."""
    total = hashlib.sha256()
    for tensor in (dataset.train_inputs, dataset.train_targets, dataset.test_inputs, dataset.test_targets):
        total.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()[:12]
