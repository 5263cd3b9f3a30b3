"""From arrays of the user's own to a dataset: classes numbered, samples split, inputs standardised. Nothing is guessed
in silence: what could be meant in two ways is refused."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from fgcli.data.arrays import as_inputs
from fgcli.data.dataset import Dataset, Standardise
from fgcli.data.options import OwnOptions
from fgcli.errors import UsageError

MANY = 100
"""Different whole numbers, of which more could be classes or numbers."""


class Samples(NamedTuple):
    """Inputs [n, ...] and targets [n], or [n, d] of numbers, as a file has them."""

    inputs: numpy.ndarray
    targets: numpy.ndarray


def own_dataset(
    name: str, train: Samples, test: Samples | None, options: OwnOptions, class_names: Sequence[str] = ()
) -> Dataset:
    """The dataset of one split, which is divided, or of two. `class_names`: where targets are numbers of these.

    UsageError for what cannot be trained on.
    """
    splits = [train] if test is None else [train, test]
    for split in splits:
        if len(split.inputs) != len(split.targets) or not len(split.inputs):
            raise UsageError(f"{name}: {len(split.inputs)} inputs and {len(split.targets)} targets; one each is needed")
    inputs = [as_inputs(split.inputs, f"{name}: the inputs") for split in splits]
    targets, names = _targets(name, [split.targets for split in splits], options, class_names)
    if test is None:
        chosen = divided(name, targets[0], options.test_fraction, options.seed)
        inputs, targets = [inputs[0][index] for index in chosen], [targets[0][index] for index in chosen]
    step = _standardise(inputs[0], options)
    columns = targets[0].shape[1] if targets[0].dim() == 2 else 1
    classes = columns if targets[0].is_floating_point() else len(names)
    return Dataset(name, step(inputs[0]), targets[0], step(inputs[1]), targets[1], classes, step, tuple(names))


def _targets(
    name: str, given: list[numpy.ndarray], options: OwnOptions, class_names: Sequence[str]
) -> tuple[list[Tensor], Sequence[str]]:
    kinds = {array.dtype.kind for array in given}
    if class_names:
        return [torch.from_numpy(array.astype(numpy.int64)) for array in given], class_names
    if not kinds <= set("biufU"):
        raise UsageError(f"{name}: the targets are of type {given[0].dtype}; they must be numbers or text")
    numeric = "U" not in kinds
    given = given if numeric else [array.astype(str) for array in given]
    whole = numeric and all(bool((numpy.floor(array) == array).all()) for array in given)
    found = numpy.unique(numpy.concatenate([array.ravel() for array in given]))
    kind = options.targets or ("numbers" if numeric and not whole else "classes")
    if options.targets is None and whole and (len(found) > MANY or "f" in kinds):
        said = f"{len(found)} different whole numbers{', of floating point' * ('f' in kinds)}"
        choice = "--dataset-option targets=classes or targets=numbers"
        raise UsageError(f"{name}: the targets are {said}; say what they are: {choice}")
    if kind == "numbers":
        if not numeric:
            raise UsageError(f"{name}: targets is numbers, and the targets are text, as {str(found[0])!r}")
        return [as_inputs(array, f"{name}: the targets") for array in given], ()
    if numeric and not whole:
        raise UsageError(f"{name}: targets is classes, and the targets have fractions, as {found[0]:g}")
    if any(array.ndim != 1 for array in given):
        raise UsageError(f"{name}: the targets have shape {list(given[0].shape)}; classes must be [n]")
    numbers = [torch.from_numpy(numpy.searchsorted(found, array).astype(numpy.int64)) for array in given]
    return numbers, [str(int(one) if numeric else one) for one in found]


def divided(name: str, targets: Tensor, test_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """The numbers of the training and of the test samples, with the same shares of each class."""
    from sklearn.model_selection import train_test_split

    stratify = None if targets.is_floating_point() else targets
    few = 0 if stratify is None else int(stratify.unique(return_counts=True)[1].min())
    try:
        train, test = train_test_split(
            range(len(targets)), test_size=test_fraction, stratify=stratify, random_state=seed
        )
    except ValueError as error:
        of_class = "" if stratify is None else f", of the smallest class {few}"
        mend = "give more samples, another --dataset-option test_fraction, or training and test samples apart"
        raise UsageError(
            f"{name}: {len(targets)} samples{of_class}, cannot be split with test_fraction {test_fraction:g}: {mend}"
        ) from error
    return list(train), list(test)


def _standardise(inputs: Tensor, options: OwnOptions) -> Standardise:
    """By the training samples; what is the same in all of them is only shifted."""
    axes = {"whole": tuple(range(inputs.dim())), "features": (0,), "channels": (0, *range(2, inputs.dim()))}
    if options.standardise == "none":
        return Standardise()
    over, whole = axes[options.standardise], options.standardise == "whole"
    mean = inputs.double().mean(over, keepdim=True)[0]
    deviation = inputs.double().std(over, correction=0, keepdim=True)[0]
    deviation = torch.where(deviation > 0, deviation, 1.0)
    return Standardise(mean.squeeze(), deviation.squeeze()) if whole else Standardise(mean, deviation)
