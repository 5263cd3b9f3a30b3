"""What no estimate can be right for: small rules, each a function from a model to its findings.

`refuse` looks at all of them and says all that was found at once: place, reason, what to use instead.
"""

from collections.abc import Callable, Collection, Iterator

from torch import nn

from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.own_loss import OwnLoss
from fgcli.gradient.precision import LOW
from fgcli.gradient.sites import Network


def nothing_trained(model: nn.Module) -> Iterator[str]:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        yield (
            f"no parameter of the model ({type(model).__name__}) requires a gradient, so that nothing would be "
            "trained; set requires_grad of those that should be"
        )


def parameters_without_shape(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.UninitializedParameter):
            yield (
                f"parameter '{name}' has no shape before the model's first call (a LazyLinear, say); call the model "
                "once on an input, before the optimiser is made"
            )


def compiled_layers(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            yield (
                f"{_called(name, module)} is compiled, and forward-mode differentiation goes through Python: use what "
                "torch.compile was given (its _orig_mod), leave out .compile(), or use backprop"
            )


def copies_for_devices(model: nn.Module) -> Iterator[str]:
    for name, module in model.named_modules():
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            called = _called(name, module)
            yield f"{called} spreads a batch over copies, which this method cannot follow: use its .module"


def _called(name: str, module: nn.Module) -> str:
    return f"layer '{name}' ({type(module).__name__})" if name else f"the model ({type(module).__name__})"


def weights_in_low_precision(model: nn.Module) -> Iterator[str]:
    for name, parameter in model.named_parameters():
        if parameter.dtype in LOW and parameter.requires_grad:
            dtype = str(parameter.dtype).removeprefix("torch.")
            yield (
                f"parameter '{name}' is in {dtype}, in which no guess can be made: keep the model and its inputs in "
                f"float32 (model.float()), or use weight-perturbation or backprop; `fgcli train --precision {dtype}` "
                "computes a float32 model's layers in it"
            )


Rule = Callable[[nn.Module], Iterator[str]]

ANY_METHOD: tuple[Rule, ...] = (nothing_trained, parameters_without_shape)
FORWARD_MODE: tuple[Rule, ...] = (*ANY_METHOD, compiled_layers, copies_for_devices)
GUESSES: tuple[Rule, ...] = (*FORWARD_MODE, weights_in_low_precision)


def refuse(model: nn.Module, rules: tuple[Rule, ...]) -> None:
    """ModelRefused with a line for each finding, where there are any."""
    model = model.__dict__["model"] if isinstance(model, OwnLoss) else model
    findings = [finding for rule in rules for finding in rule(model)]
    if findings:
        raise ModelRefused("\n".join(findings))


def unpredicted(network: Network, places: Collection[str], correction: float) -> Iterator[str]:
    """Parameters behind the last sites, and sites before one whose input belongs to no sample."""
    for name in network.behind_last:
        yield (
            f"parameter '{name}' lies between the last layers and the loss that the model gives, where feedback has no "
            "gradient for it: give a loss_fn of the outputs, or leave feedback out"
        )
    if correction >= 1:  # the guess's own estimate is of all that is missing
        return
    found = {*places, *(name for name, site in network.sites.items() if site.is_output)}
    for site in network.guessed:
        for name in site.reaches:
            if name not in found:
                why = network.mixes or "it has one output for the whole batch"
                yield (
                    f"site '{name}', which '{site.name}' leads to, has no sample's own input ({why}), so that feedback "
                    "predicts nothing there: set correction=1, or leave feedback out"
                )
