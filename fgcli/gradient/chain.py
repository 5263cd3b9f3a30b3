"""Finding, for each site, what lies above it: an elementwise activation and a linear layer, or any other segment.

torch.fx follows the model's forward once; what lies between two sites is then read off the graph.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fgcli.gradient.segment import GraphSegment, graph_segment
from fgcli.gradient.trace import NotTraceable, Traced
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


Above = Segment | GraphSegment | OutputLayer | NoSegment


def find_segments(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Above]:
    """What lies above each site, by the site's name; shapes of the sites' outputs, without the batch axis.

    A Segment, the fast path, where s_i is a vector. A model that torch.fx cannot follow has NoSegment at every site,
    with the cause.
    """
    if "" in shapes:  # the model is one layer, which torch.fx would look into
        return {"": OutputLayer()}
    try:
        traced = Traced(model, shapes)
    except NotTraceable as cause:
        return dict.fromkeys(shapes, NoSegment(str(cause)))
    return {
        name: _above(traced, name, shape) if name in traced.site_nodes else NoSegment("is not in torch.fx's graph")
        for name, shape in shapes.items()
    }


def _above(traced: Traced, name: str, shape: tuple[int, ...]) -> Above:
    linear = _linear_segment(traced, traced.site_nodes[name])
    if isinstance(linear, Segment) and len(shape) == 1:
        return linear
    reason = linear if isinstance(linear, str) else f"has outputs of shape {list(shape)}, not vectors"
    return graph_segment(traced, name, reason) or OutputLayer()


def _linear_segment(traced: Traced, node: fx.Node) -> Segment | str:
    """The Segment, or why there is none."""
    activations: list[Activation] = []
    while True:
        users = list(node.users)
        if len(users) != 1:
            return f"has an output that {len(users)} operations use"
        before, node = node, users[0]
        module = traced.module(node)
        if isinstance(module, nn.Linear) and traced.is_site(node):
            return Segment(tuple(activations), module)
        activation = _elementwise(node, before, module)
        if activation is None:
            name = f"'{node.target}' ({type(module).__name__})" if module else f"'{node.name}'"
            return f"is followed by {name}, which is neither a Linear nor an elementwise activation"
        activations.append(activation)


def _elementwise(node: fx.Node, before: fx.Node, module: nn.Module | None) -> Activation | None:
    if isinstance(module, ELEMENTWISE_MODULES):
        # A hook may do anything.
        return None if module._forward_hooks or module._forward_pre_hooks else Activation(module)
    if node.args[:1] != (before,):
        return None
    if node.op == "call_function" and node.target in ELEMENTWISE_FUNCTIONS:
        function = cast("Callable[..., Tensor]", node.target)
    elif node.op == "call_method" and node.target in ELEMENTWISE_METHODS:
        function = getattr(torch, str(node.target))
    else:
        return None
    return Activation(function, node.args[1:], node.kwargs)
