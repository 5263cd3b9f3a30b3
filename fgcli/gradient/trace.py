"""A model's forward as a graph of operations, by torch.fx, and its evaluation without changes in place.

The evaluation is pure: an operation that the model does in place makes a new tensor here. Where that changes the
result (a tensor is changed and then used again under its old name), or the model draws random numbers or keeps state,
the graph disagrees with the model; fgcli.gradient.probe finds that out.
"""

import operator
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from fgcli.gradient.sites import SiteModule, linear_part
from fgcli.gradient.upstream import math_attention

OUT_OF_PLACE = {
    getattr(operator, f"i{name}"): getattr(operator, name)
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
}
Values = dict[fx.Node, Any]


class NotTraceable(Exception):
    """torch.fx cannot follow the model's forward. The message completes «site 'x' ...»."""


class _Tracer(fx.Tracer):
    def __init__(self, sites: Collection[str]) -> None:
        super().__init__()
        self.sites = sites
        self.failed: nn.Module | None = None
        """The innermost module whose forward could not be followed."""

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if type(m) is nn.TransformerEncoder:
            forward = partial(_encoder_forward, m)
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            self.failed = self.failed or m
            raise

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self.sites:
            return True
        holds_sites = any(name.startswith(f"{module_qualified_name}.") for name in self.sites)
        return super().is_leaf_module(m, module_qualified_name) and not holds_sites


def _encoder_forward(
    encoder: nn.TransformerEncoder,
    src: Tensor,
    mask: Tensor | None = None,
    src_key_padding_mask: Tensor | None = None,
    is_causal: bool | None = None,
) -> Tensor:
    """nn.TransformerEncoder's own forward, which asks whether its input is a nested tensor: here it is none."""
    for layer in encoder.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask, is_causal=bool(is_causal))
    return src if encoder.norm is None else encoder.norm(src)


class Traced:
    """The graph of a model, with the given sites as single operations. Raises NotTraceable."""

    def __init__(self, model: nn.Module, sites: Collection[str]) -> None:
        self.modules = dict(model.named_modules())
        self.sites = frozenset(sites)
        tracer = _Tracer(sites)
        try:
            with _unchanged(model) as self._constants, math_attention():
                self.graph = tracer.trace(model)
        except Exception as cause:  # fx raises whatever the user's forward does when it meets a proxy
            fault = f"{type(cause).__name__}: {str(cause).splitlines()[0]}" if str(cause) else type(cause).__name__
            names = [name for name, module in self.modules.items() if module is tracer.failed]
            layer = f" in layer '{names[0]}' ({type(tracer.failed).__name__})" if names else ""
            raise NotTraceable(f"is in a model that torch.fx cannot follow{layer} ({fault})") from cause
        for node in self.graph.nodes:
            if node.op == "call_method" and not hasattr(Tensor, _out_of_place(str(node.target))):
                raise NotTraceable(
                    f"is in a model that calls {node.target}, to which no operation that returns a new tensor answers"
                )
        self.site_nodes = {str(node.target): node for node in self.graph.nodes if self.is_site(node)}

    def is_site(self, node: fx.Node) -> bool:
        return node.op == "call_module" and str(node.target) in self.sites

    def module(self, node: fx.Node) -> nn.Module | None:
        """The module that a node calls."""
        return self.modules[str(node.target)] if node.op == "call_module" else None

    def run(self, inputs: Tensor, kept: Collection[fx.Node]) -> Values:
        """The values of `kept` for these inputs [batch, ...]. What is used no more is let go on the way."""
        values: Values = {}
        last_use = {argument: node for node in self.graph.nodes for argument in node.all_input_nodes}
        given = iter([inputs])
        with torch.no_grad(), math_attention():
            for node in self.graph.nodes:
                if node.op == "placeholder":
                    values[node] = next(given, node.args[0] if node.args else None)
                elif node.op != "output":
                    values[node] = self._value(node, values)
                for argument in node.all_input_nodes:
                    if last_use[argument] is node and argument not in kept:
                        del values[argument]
        return {node: values[node] for node in kept}

    def evaluate(self, nodes: Iterable[fx.Node], values: Values) -> Values:
        """The values of `nodes`, in the order of the graph. What has one in `values` is used with that."""
        found: Values = {}
        known = ChainMap(values, found)
        for node in nodes:
            found[node] = self._value(node, known)
        return found

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        arguments: Any = fx.map_arg(node.args, values.__getitem__)
        keywords: Any = fx.map_arg(node.kwargs, values.__getitem__)
        if node.op == "get_attr":
            name = str(node.target)
            return self._constants[name] if name in self._constants else operator.attrgetter(name)(self.modules[""])
        if self.is_site(node):
            # Not through the module's __call__: hooks are for the pass that they were set for.
            module = cast("SiteModule", self.module(node))
            return linear_part(module, arguments[0], module.weight, module.bias)
        if "inplace" in keywords:
            keywords = {**keywords, "inplace": False}
        if node.op == "call_module":
            module = self.modules[str(node.target)]
            if getattr(module, "inplace", False):
                arguments = (arguments[0].clone(), *arguments[1:])
            return module(*arguments, **keywords)
        if node.op == "call_method":
            return getattr(arguments[0], _out_of_place(str(node.target)))(*arguments[1:], **keywords)
        function = cast("Any", node.target)
        if function in OUT_OF_PLACE:
            function = OUT_OF_PLACE[function]
        elif function is getattr(torch, getattr(function, "__name__", ""), None):
            function = getattr(torch, _out_of_place(function.__name__))
        return function(*arguments, **keywords)


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Afterwards, modules have the attributes that they had: a forward that keeps a tensor kept torch.fx's stand-in.

    What torch.fx added to the model itself, constants that its graph names, is in the mapping then.
    """
    kept = [(module, dict(vars(module))) for module in model.modules()]
    added: dict[str, Any] = {}
    try:
        yield added
    finally:
        added.update({name: value for name, value in vars(model).items() if name not in kept[0][1]})
        for module, attributes in kept:
            vars(module).clear()
            vars(module).update(attributes)


def _out_of_place(name: str) -> str:
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name
