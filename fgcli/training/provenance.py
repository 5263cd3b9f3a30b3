"""The sum of a dataset, by which a run's record says which samples it was made with."""

import hashlib

import torch

from fgcli.data.dataset import Dataset


def digest(dataset: Dataset) -> str:
    """The beginning of the sha256 of all samples, as this machine has read or generated them."""
    total = hashlib.sha256()
    for tensor in (dataset.train_inputs, dataset.train_targets, dataset.test_inputs, dataset.test_targets):
        total.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return total.hexdigest()[:12]
