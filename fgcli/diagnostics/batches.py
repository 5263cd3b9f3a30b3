"""The batches that diagnostics look at: from a stream of their own, so that those of a run stay as they are."""

import torch
from torch import Tensor

from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams


def draw_batch(inputs: Tensor, targets: Tensor, size: int, streams: Streams, number: int) -> Batch:
    """The batch of that number: `size` samples of inputs [n, ...] and targets [n, ...], without repetition."""
    order = torch.randperm(len(inputs), generator=streams.generator("diagnostics-batch", number))
    chosen = order[:size].to(inputs.device)
    return Batch(inputs[chosen], targets[chosen])
