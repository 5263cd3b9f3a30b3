"""`check_dataset`: a dataset that a run can train on, the same each time it is made."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fgcli.data.dataset import Dataset, check
from fgcli.errors import UsageError
from fgcli.testing.expect import CheckFailed, expect, without_global_randomness

SPLITS = ("train_inputs", "train_targets", "test_inputs", "test_targets")


def check_dataset(make: Callable[[], Any]) -> None:
    """Hold a dataset to its contract.

    What is checked: what every run refuses (shapes, types, labels, values that are not finite); that it lies on the
    CPU; that it comes out the same each time, without drawing from the generators that all code shares; that the
    training split has every class; and that no sample of it is in the test split.

    Args:
        make: gives the dataset: `lambda: mine(MyOptions())`.

    Raises:
        CheckFailed: says what was expected and what was found.
    """
    __tracebackhide__ = True
    dataset = make()
    expect(isinstance(dataset, Dataset), "the target", "a fgcli.Dataset", type(dataset).__name__)
    for split in SPLITS:
        tensor = getattr(dataset, split)
        expect(isinstance(tensor, Tensor), split, "a tensor", type(tensor).__name__)
        expect(tensor.device.type == "cpu", split, "the CPU", tensor.device)
        expect(not tensor.requires_grad, split, "no recorded graph", "requires_grad")
    try:
        check(dataset)
    except UsageError as error:
        raise CheckFailed(str(error)) from error
    with without_global_randomness("the dataset"):  # not at first: an import may draw, say for a temporary name
        again = make()
    for split in SPLITS:
        same = torch.equal(getattr(again, split), getattr(dataset, split))
        expect(same, split, "the same when it is made again", "other values")
    of_samples = dataset.train_targets.dim() == 1  # of a language model any token may be missing
    missing = sorted(set(range(dataset.classes)) - set(dataset.train_targets.tolist())) if of_samples else []
    expect(not missing, "train_targets", f"all classes from 0 to {dataset.classes - 1}", f"none of {missing}")
    train = {sample.numpy().tobytes() for sample in dataset.train_inputs}
    shared = [number for number, sample in enumerate(dataset.test_inputs) if sample.numpy().tobytes() in train]
    expect(not shared, "test_inputs", "no sample of the training split", f"{len(shared)}, the first at {shared[:1]}")
