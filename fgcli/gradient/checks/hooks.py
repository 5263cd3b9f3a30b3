"""Hooks on gradients: `backward` alone calls them, and its gradient is what they make of it."""

from collections.abc import Iterator

from torch import nn


def hooks_of_backward(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if module._backward_hooks or module._backward_pre_hooks:
            which = f"layer '{name}' ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
            yield f"{which} has a backward hook, which this method does not call: remove the hook, or use backprop"
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks:
            yield (
                f"parameter '{name}' has a hook on its gradient (register_hook), which this method does not call: "
                "remove the hook and change .grad after the step instead, or use backprop"
            )


def hooks_after_backward(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if parameter._post_accumulate_grad_hooks:
            yield (
                f"parameter '{name}' has a hook that follows its gradient (register_post_accumulate_grad_hook), which "
                "no method here calls: remove the hook and do its work after the step"
            )
