"""Layers that torch.compile has changed: forward-mode differentiation goes through Python."""

from collections.abc import Iterator

from torch import nn


def compiled_layers(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            which = f"layer '{name}' ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
            yield (
                f"{which} is compiled, and forward-mode differentiation goes through Python: use what torch.compile "
                "was given (its _orig_mod), leave out .compile(), or use backprop"
            )
