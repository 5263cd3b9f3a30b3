"""What a loss measures over whole splits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fgcli.runs.results import Metrics
from fgcli.training.assembly import Assembly, eval_mode
from fgcli.training.losses import total

BATCH = 1024


@contextmanager
def measuring(assembly: Assembly, step: int) -> Iterator[None]:
    """The model in eval mode, its layers' own draws from a stream of their own."""
    with eval_mode(assembly.model), assembly.streams.for_layers("evaluation", step, assembly.device):
        yield


@torch.no_grad()
def evaluate(assembly: Assembly, step: int) -> Metrics:
    """After `step` steps: losses, and accuracies where the loss has any."""
    data = assembly.dataset
    with measuring(assembly, step):
        train_loss, train_accuracy = _measure(assembly, data.train_inputs, data.train_targets)
        test_loss, test_accuracy = _measure(assembly, data.test_inputs, data.test_targets)
    return Metrics(
        train_accuracy=train_accuracy, test_accuracy=test_accuracy, train_loss=train_loss, test_loss=test_loss
    )


def _measure(assembly: Assembly, inputs: Tensor, targets: Tensor) -> tuple[float, float | None]:
    """Mean loss, and accuracy where there is one."""
    objective, loss, correct = assembly.objective, 0.0, 0.0
    for some_inputs, some_targets in zip(inputs.split(BATCH), targets.split(BATCH), strict=True):
        outputs = assembly.model(some_inputs)
        loss += total(objective.loss(outputs, some_targets), len(some_inputs))
        if objective.correct is not None:
            correct += objective.correct(outputs, some_targets).sum().item()
    return loss / len(inputs), None if objective.correct is None else correct / len(inputs)
