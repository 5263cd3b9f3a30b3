"""Finding, for each site, the elementwise activation and the linear layer above it.

torch.fx follows the model's forward once; what lies between two sites is then read off the graph.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fgcli.gradient.sites import is_site
from fgcli.gradient.upstream import relu_slope

ELEMENTWISE_MODULES = (
    nn.ReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Identity, nn.SELU, nn.CELU,
    nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Mish, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink,
)  # fmt: skip
ELEMENTWISE_FUNCTIONS = {
    torch.relu, torch.tanh, torch.sigmoid, F.relu, F.gelu, F.tanh, F.sigmoid, F.silu, F.elu, F.leaky_relu, F.softplus,
    F.selu, F.celu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.mish, F.logsigmoid, F.softsign, F.tanhshrink,
}  # fmt: skip
ELEMENTWISE_METHODS = {"relu", "tanh", "sigmoid"}
RELUS = {torch.relu, F.relu}


@dataclass(frozen=True)
class Activation:
    """An elementwise activation as the model calls it."""

    function: Callable[..., Tensor]
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, s: Tensor) -> Tensor:
        return self.function(s, *self.arguments, **self.keywords)

    @property
    def is_relu(self) -> bool:
        return isinstance(self.function, nn.ReLU) or self.function in RELUS


@dataclass(frozen=True)
class Segment:
    """From s_i to s_{i+1}: elementwise activations, then a linear layer."""

    activations: tuple[Activation, ...]
    next_layer: nn.Linear

    def slope(self, s: Tensor) -> Tensor:
        """The activations' derivative at s: [batch, d] -> [batch, d]. Call it inside a dual level."""
        if len(self.activations) == 1 and self.activations[0].is_relu:
            return relu_slope(s)
        # An elementwise function's Jacobian is diagonal: its product with ones is that diagonal.
        value = forward_ad.make_dual(s.clone(), torch.ones_like(s))
        for activation in self.activations:
            value = activation(value)
        slope = forward_ad.unpack_dual(value).tangent
        return torch.zeros_like(s) if slope is None else slope


@dataclass(frozen=True)
class NoSegment:
    """Why the upstream Jacobian of a site is not known: `reason` completes «site 'x' ...»."""

    reason: str


@dataclass(frozen=True)
class OutputLayer:
    """The site has no site above it."""


class _SiteTracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_site(m) or super().is_leaf_module(m, module_qualified_name)


def find_segments(model: nn.Module) -> dict[str, Segment | OutputLayer | NoSegment]:
    """What lies above each site, by the site's name.

    A model that torch.fx cannot follow has NoSegment at every site, with the cause.
    """
    if is_site(model):  # nothing calls it in a graph of its own forward
        return {"": OutputLayer()}
    modules = dict(model.named_modules())
    try:
        graph = _SiteTracer().trace(model)
    except Exception as cause:  # fx raises whatever the user's forward does when it meets a proxy
        reason = f"is in a model that torch.fx cannot follow ({type(cause).__name__}: {str(cause).splitlines()[0]})"
        return {name: NoSegment(reason) for name, module in modules.items() if is_site(module)}
    return {
        str(node.target): _segment_above(node, modules)
        for node in graph.nodes
        if node.op == "call_module" and is_site(modules[str(node.target)])
    }


def _segment_above(node: fx.Node, modules: dict[str, nn.Module]) -> Segment | OutputLayer | NoSegment:
    if not _leads_to_a_site(node, modules):
        return OutputLayer()
    activations: list[Activation] = []
    while True:
        users = list(node.users)
        if len(users) != 1:
            return NoSegment(f"has an output that {len(users)} operations use")
        before, node = node, users[0]
        module = modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, nn.Linear) and is_site(module):
            return Segment(tuple(activations), module)
        activation = _elementwise(node, before, module)
        if activation is None:
            name = f"'{node.target}' ({type(module).__name__})" if module else f"'{node.name}'"
            return NoSegment(f"is followed by {name}, which is neither a Linear nor an elementwise activation")
        activations.append(activation)


def _leads_to_a_site(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    ahead, seen = list(node.users), set[fx.Node]()
    while ahead:
        user = ahead.pop()
        if user in seen:
            continue
        seen.add(user)
        if user.op == "call_module" and is_site(modules[str(user.target)]):
            return True
        ahead.extend(user.users)
    return False


def _elementwise(node: fx.Node, before: fx.Node, module: nn.Module | None) -> Activation | None:
    if isinstance(module, ELEMENTWISE_MODULES):
        return Activation(module)
    if node.args[:1] != (before,):
        return None
    if node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS:
        function = cast("Callable[..., Tensor]", node.target)
    elif node.op == "call_method" and node.target in ELEMENTWISE_METHODS:
        function = getattr(torch, str(node.target))
    else:
        return None
    return Activation(function, node.args[1:], node.kwargs)
