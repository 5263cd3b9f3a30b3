"""What no estimate can be right for: one small rule a file, each a function from a model to its findings.

`refuse` looks at all of them and says all that was found at once: place, reason, what to use instead.
"""

from collections.abc import Callable, Iterator

from torch import nn

from fgcli.gradient.checks.compiled import compiled_layers
from fgcli.gradient.checks.complex_weights import complex_weights
from fgcli.gradient.checks.copies import copies_for_devices
from fgcli.gradient.checks.hooks import hooks_after_backward, hooks_of_backward
from fgcli.gradient.checks.low_precision import weights_in_low_precision
from fgcli.gradient.checks.nothing_trained import nothing_trained
from fgcli.gradient.checks.without_shape import parameters_without_shape
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.own_loss import OwnLoss

Rule = Callable[[nn.Module], Iterator[str]]

ANY_METHOD: tuple[Rule, ...] = (nothing_trained, parameters_without_shape, hooks_after_backward)
FORWARD_MODE: tuple[Rule, ...] = (
    *ANY_METHOD, compiled_layers, copies_for_devices, complex_weights, hooks_of_backward,
)  # fmt: skip
GUESSES: tuple[Rule, ...] = (*FORWARD_MODE, weights_in_low_precision)


def refuse(model: nn.Module, rules: tuple[Rule, ...]) -> None:
    """ModelRefused with a line for each finding, where there are any."""
    model = model.__dict__["model"] if isinstance(model, OwnLoss) else model
    findings = [finding for rule in rules for finding in rule(model)]
    if findings:
        raise ModelRefused("\n".join(findings))
