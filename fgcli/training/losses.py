"""Losses: what a run minimises, which targets it takes, and whether an output can be right."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from fgcli.data.dataset import Dataset
from fgcli.errors import UsageError
from fgcli.extend.options import Options


@dataclass(frozen=True)
class Objective:
    """A loss, as it is used on one dataset."""

    loss: Callable[[Tensor, Tensor], Tensor]
    """(outputs, targets) -> the losses of the samples [batch], or their mean []. The gradient is that of the mean."""
    outputs: int
    """How many numbers the model gives for a sample, or for each token where targets are classes of tokens."""
    correct: Callable[[Tensor, Tensor], Tensor] | None = None
    """(outputs, targets) -> the share of each sample's targets that is right [batch]; None: there is no accuracy."""


def classification(options: Options, dataset: Dataset) -> Objective:
    """Cross-entropy of a logit for each class, with the accuracy of the largest. UsageError for other targets."""
    if dataset.train_targets.is_floating_point():
        _refuse("cross-entropy", "classes", dataset, "mse")
    return Objective(cross_entropy, dataset.classes, _largest_is_right)


def error_rate(options: Options, dataset: Dataset) -> Objective:
    """1 where the largest logit is not the class, else 0. Without a derivative: only zero-order methods take it."""
    if dataset.train_targets.is_floating_point():
        _refuse("error-rate", "classes", dataset, "mse")
    return Objective(
        lambda outputs, targets: 1 - _largest_is_right(outputs, targets), dataset.classes, _largest_is_right
    )


def regression(options: Options, dataset: Dataset) -> Objective:
    """Mean squared error of an output for each number of a target. UsageError for classes."""
    if not dataset.train_targets.is_floating_point():
        _refuse("mse", "numbers", dataset, "cross-entropy")
    return Objective(squared_error, dataset.classes)


def binary_classification(options: Options, dataset: Dataset) -> Objective:
    """Binary cross-entropy of a logit for two classes, or for each number of a target from 0 to 1.

    The accuracy is that of the logits' signs, where every target is 0 or 1. UsageError for other targets.
    """
    targets = torch.cat([dataset.train_targets.flatten(), dataset.test_targets.flatten()])
    if not targets.is_floating_point():
        if dataset.classes != 2:
            _refuse("bce", "two classes, or numbers from 0 to 1", dataset, "cross-entropy")
        return Objective(binary_cross_entropy, 1, _right_signs)
    if targets.min() < 0 or targets.max() > 1:
        _refuse("bce", "two classes, or numbers from 0 to 1", dataset, "mse")
    binary = bool(((targets == 0) | (targets == 1)).all())
    return Objective(binary_cross_entropy, dataset.classes, _right_signs if binary else None)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample losses [batch] of logits [batch, classes] and classes [batch].

    Logits of several classifiers, [batch, classes, classifiers], give the mean of their losses; of tokens, [batch,
    length, classes] and classes [batch, length], the mean over the tokens.
    """
    if targets.dim() == 2:
        return F.cross_entropy(outputs.movedim(2, 1), targets, reduction="none").mean(1)
    if outputs.dim() == 2:
        return F.cross_entropy(outputs, targets, reduction="none")
    return F.cross_entropy(outputs, targets.unsqueeze(1).expand(-1, outputs.shape[2]), reduction="none").mean(1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample losses [batch]: the mean of (output - target)² over the numbers of a sample, and over classifiers."""
    return (outputs - _like(outputs, targets)).square().flatten(1).mean(1)


def binary_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample losses [batch] of logits: the mean over the labels of a sample, and over classifiers."""
    return F.binary_cross_entropy_with_logits(outputs, _like(outputs, targets), reduction="none").flatten(1).mean(1)


def total(losses: Tensor, samples: int) -> float:
    """The sum over the samples, of per-sample losses or of their mean."""
    return (losses.sum() if losses.dim() else losses * samples).item()


def _right_signs(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs > 0) == (_like(outputs, targets) > 0.5)).float().flatten(1).mean(1)


def _like(outputs: Tensor, targets: Tensor) -> Tensor:
    """Targets [batch] or [batch, d] in the shape [batch, d] or [batch, d, classifiers] of the outputs."""
    columns = targets.to(outputs.dtype).reshape(len(targets), -1)
    return columns if outputs.dim() == 2 else columns.unsqueeze(2).expand_as(outputs)


def _largest_is_right(outputs: Tensor, targets: Tensor) -> Tensor:
    """1 where the largest logit is the target's [batch]; of tokens, the share of them."""
    if targets.dim() == 2:
        return (outputs.argmax(2) == targets).float().mean(1)
    return (outputs.argmax(1) == targets).float()


def _refuse(loss: str, wanted: str, dataset: Dataset, other: str) -> NoReturn:
    targets, classes = dataset.train_targets, dataset.classes
    bounds = f"from {targets.min().item():g} to {targets.max().item():g}"
    found = f"numbers {bounds}" if targets.is_floating_point() else f"{classes} classes"
    given = f"those of dataset {dataset.name!r} are {found}"
    raise UsageError(f"loss {loss} takes targets that are {wanted}; {given}: use --loss {other}")
