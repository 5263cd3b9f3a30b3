"""Loss and accuracy over whole splits."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fgcli.runs.results import Metrics
from fgcli.training.assembly import Assembly, cross_entropy, eval_mode

BATCH = 1024


@contextmanager
def measuring(assembly: Assembly, step: int) -> Iterator[None]:
    """The model in eval mode, its layers' own draws from a stream of their own."""
    with eval_mode(assembly.model), assembly.streams.for_layers("evaluation", step, assembly.device):
        yield


@torch.no_grad()
def evaluate(assembly: Assembly, step: int) -> Metrics:
    """After `step` steps."""
    data = assembly.dataset
    with measuring(assembly, step):
        train_loss, train_accuracy = _measure(assembly.model, data.train_inputs, data.train_targets)
        test_loss, test_accuracy = _measure(assembly.model, data.test_inputs, data.test_targets)
    return Metrics(train_accuracy, test_accuracy, train_loss, test_loss)


def _measure(model: nn.Module, inputs: Tensor, targets: Tensor) -> tuple[float, float]:
    """Mean loss and accuracy."""
    loss, correct = 0.0, 0
    for some_inputs, some_targets in zip(inputs.split(BATCH), targets.split(BATCH), strict=True):
        outputs = model(some_inputs)
        loss += cross_entropy(outputs, some_targets).sum().item()
        correct += int((outputs.argmax(dim=1) == some_targets).sum().item())
    return loss / len(inputs), correct / len(inputs)
