"""Trained weights that are complex numbers."""

from collections.abc import Iterator

from torch import nn


def complex_weights(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if parameter.is_complex() and parameter.requires_grad:
            yield (
                f"parameter '{name}' is complex, for which this method has no noise: keep its real and imaginary part "
                f"in a last axis of 2 and use torch.view_as_complex({name.rpartition('.')[2]}), or use backprop"
            )
