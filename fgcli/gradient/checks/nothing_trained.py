"""Models without a trained parameter."""

from collections.abc import Iterator

from torch import nn


def nothing_trained(model: nn.Module) -> Iterator[str]:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield (
            f"no parameter of the model ({type(model).__name__}) requires a gradient, so that nothing would be "
            "trained; set requires_grad of those that should be"
        )
