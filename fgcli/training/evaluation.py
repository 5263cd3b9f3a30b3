"""What a loss measures over whole splits."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fgcli.data.dataset import Dataset
from fgcli.runs.results import Metrics
from fgcli.training.assembly import Assembly, eval_mode
from fgcli.training.losses import Objective, total

BATCH = 1024


@contextmanager
def measuring(assembly: Assembly, step: int) -> Iterator[None]:
    """The model in eval mode, its layers' own draws from a stream of their own."""
    with eval_mode(assembly.model), assembly.streams.for_layers("evaluation", step, assembly.device):
        yield


def evaluate(assembly: Assembly, step: int) -> Metrics:
    """After `step` steps: losses, and accuracies where the loss has any. A loss is the mean over the samples whose own
    is finite, NaN without any; the others, which are counted, are taken for wrong."""
    with measuring(assembly, step):
        return measure(assembly.model, assembly.objective, assembly.dataset)


@torch.no_grad()
def measure(model: nn.Module, objective: Objective, data: Dataset) -> Metrics:
    """The same of any model and data, in the mode that the model is in."""
    train_loss, train_accuracy, train_left_out = _measure(model, objective, data.train_inputs, data.train_targets)
    test_loss, test_accuracy, test_left_out = _measure(model, objective, data.test_inputs, data.test_targets)
    return Metrics(
        train_accuracy=train_accuracy, test_accuracy=test_accuracy, train_loss=train_loss, test_loss=test_loss,
        train_left_out=train_left_out, test_left_out=test_left_out,
    )  # fmt: skip


def _measure(
    model: nn.Module, objective: Objective, inputs: Tensor, targets: Tensor
) -> tuple[float, float | None, int]:
    """Mean loss, accuracy where there is one, and how many samples have a loss that is not finite."""
    loss, correct, left_out = 0.0, 0.0, 0
    for some_inputs, some_targets in zip(inputs.split(BATCH), targets.split(BATCH), strict=True):
        outputs = model(some_inputs)
        losses = objective.loss(outputs, some_targets)
        finite = losses.isfinite().expand(len(some_inputs))  # of a loss of the whole batch: all or none
        left_out += len(finite) - int(finite.sum().item())
        loss += total(losses if finite.all() else torch.where(finite, losses, 0), len(some_inputs))
        if objective.correct is not None:
            correct += torch.where(finite, objective.correct(outputs, some_targets), 0).sum().item()
    measured = len(inputs) - left_out
    accuracy = None if objective.correct is None else correct / len(inputs)
    return loss / measured if measured else math.nan, accuracy, left_out
