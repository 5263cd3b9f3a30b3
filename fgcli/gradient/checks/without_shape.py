"""Parameters that have no shape before the model's first call."""

from collections.abc import Iterator

from torch import nn


def parameters_without_shape(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            yield (
                f"parameter '{name}' has no shape before the model's first call (a LazyLinear, say); call the model "
                "once on an input, before the optimiser is made"
            )
