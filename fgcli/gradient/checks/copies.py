"""Models whose batch is spread over copies."""

from collections.abc import Iterator

from torch import nn


def copies_for_devices(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            which = f"layer '{name}' ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
            yield f"{which} spreads a batch over copies, which this method cannot follow: use its .module"
