"""The last batch of an epoch, which may be of one sample: BatchNorm, for one, takes no such batch in train mode."""

import torch
from torch import nn

from fgcli.data.dataset import Dataset
from fgcli.errors import UsageError, one_line
from fgcli.gradient.buffers import untouched
from fgcli.recipe_keys import Recipe


def refuse_last_batch(recipe: Recipe, dataset: Dataset, model: nn.Module) -> None:
    """UsageError where it has one sample that the model, which is left as it is, does not take."""
    samples = len(dataset.train_inputs)
    if recipe.batch_size == 1 or samples % recipe.batch_size != 1:
        return
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), untouched(model, device):
            model(dataset.train_inputs[-1:].to(device))
    except Exception as error:
        raise UsageError(
            f"--batch-size is {recipe.batch_size}; the last batch of an epoch then has one of the {samples} samples, "
            f"which the model does not take ({type(error).__name__}: {one_line(str(error))}): use another size"
        ) from error
