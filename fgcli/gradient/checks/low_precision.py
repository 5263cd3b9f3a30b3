"""Trained weights in a low precision: guesses and gradients need float32."""

from collections.abc import Iterator

from torch import nn

from fgcli.gradient.precision import LOW


def weights_in_low_precision(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if parameter.dtype in LOW and parameter.requires_grad:
            dtype = str(parameter.dtype).removeprefix("torch.")
            yield (
                f"parameter '{name}' is in {dtype}, in which no guess can be made: keep the model and its inputs in "
                f"float32 (model.float()), or use weight-perturbation or backprop; `fgcli train --precision {dtype}` "
                "computes a float32 model's layers in it"
            )
