"""Sites are uses: operations in which a weight meets data, found while any Python forward runs.

A TorchFunctionMode sees every operation of the forward. One that takes a weight (a parameter of two or more axes, or
what was made of parameters alone: a view, a normalised weight) and data is a use, named after the module that owns the
weight; the second and further uses of a name are called `name#2`, … . What happens there is up to the pass
(fgcli.gradient.passes): its `visit` gives the output that the forward goes on with.

Elementwise uses (a scale, a shift, a class token that is concatenated) are no sites. There the pass says what stands
in for the parameter: itself without a graph, or a dual number with a direction as its tangent.

What the forward computes within torch.no_grad() is a constant, for tangents as it is for `backward`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fgcli.gradient.by_hand import BY_HAND
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.nested import detached, leaves, mapped, moving, primal_of, tangent_of
from fgcli.gradient.operations import (
    CONTRACTIONS,
    PACK,
    RECURRENT,
    bilinear_gradients,
    derivable,
    gradient_of_rows,
    is_bilinear,
    linear_part,
    runnable,
)
from fgcli.gradient.own_loss import Tail
from fgcli.gradient.part_draws import of_part
from fgcli.gradient.plain import math_attention, plain_checkpoints
from fgcli.gradient.randomness import default_generators, drawing_again, layers_again
from fgcli.gradient.reads import READS, Reader
from fgcli.gradient.unfollowed import refuse_unfollowed, transforms

Outputs = Any
"""What an operation or a model gives: a tensor, or tensors within tuples, lists and mappings."""


@dataclass(frozen=True)
class Source:
    """A parameter, or what was made of parameters alone."""

    names: tuple[str, ...]
    """The parameters' names."""
    tensor: Tensor
    """Itself, attached to the parameters: kept so that its id is its own for the pass."""
    recipe: tuple[Any, tuple[Any, ...], Mapping[str, Any], int | None] | None = None
    """How it is made: operation, arguments, keywords, and which of the results it is. None for a parameter."""
    again: Callable[[], None] | None = None
    """What brings torch's generators back to where they were then, if that drew random numbers."""


class Use:
    """One call of an operation with a weight and data."""

    def __init__(
        self, name: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], sources: dict[int, Source]
    ) -> None:
        self.name, self.func, self.args, self.kwargs, self.sources = name, func, args, kwargs, sources
        self.bilinear = is_bilinear(func, args, kwargs) and id(args[0]) not in sources
        self.again: Callable[[], None] | None = None
        """What brings torch's generators back to where they were at this call, of an operation that draws."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """The parameters that it uses, by name."""
        return tuple(dict.fromkeys(name for one in self.sources.values() for name in one.names))

    @property
    def x(self) -> Tensor:
        """The input of a bilinear operation."""
        return self.args[0]

    @property
    def weight(self) -> Tensor:
        """The weight, the first source of two or more axes, without a graph."""
        return next(one.tensor for one in self.sources.values() if one.tensor.dim() > 1).detach()

    @property
    def data(self) -> list[Tensor]:
        """The tensors among the arguments that are no weights."""
        return [v for v in _flat(self.args, self.kwargs) if isinstance(v, Tensor) and id(v) not in self.sources]

    def call(self, data: Callable[[Any], Any], weights: Callable[[Tensor], Any] = Tensor.detach) -> Outputs:
        """The operation on what `data` and `weights` make of its arguments."""

        def other(value: Any) -> Any:
            return weights(value) if id(value) in self.sources else data(value)

        with runnable(self.func):
            return self.func(*mapped(other, self.args), **mapped(other, self.kwargs))

    def on(self, data: Callable[[Any], Any]) -> "Use":
        """The use with other data."""
        if self.bilinear:
            return Use(self.name, self.func, (data(self.args[0]), *self.args[1:]), self.kwargs, self.sources)

        def other(value: Any) -> Any:
            return value if id(value) in self.sources else data(value)

        use = Use(self.name, self.func, mapped(other, self.args), mapped(other, self.kwargs), self.sources)
        use.again = self.again
        return use

    def pushed(self) -> tuple[Outputs, list[Tensor | None]]:
        """The output without tangents, and the tangent of each of its `leaves` that those of the data make."""
        if self.bilinear:
            x, tangent = forward_ad.unpack_dual(self.x)
            weight, bias = detached(self.args[1]), detached(self.args[2]) if len(self.args) > 2 else None
            s = linear_part(self.func, self.args, x, weight, bias)
            return s, [None if tangent is None else linear_part(self.func, self.args, tangent, weight)]
        given = moving if self.func in RECURRENT else lambda value: value
        duals = self.call(given, weights=lambda weight: given(weight.detach()))
        return mapped(primal_of, duals), [tangent_of(one) for one in leaves(duals)]

    def gradients(self, output_gradient: Sequence[Tensor], trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The use's own vjp, the chain rule's last local term, ∂s_i/∂W_i (Eq. 3 of the W̃⊥ paper).

        Args:
            output_gradient: one with respect to each of the output's `leaves`, in their shapes.
            trained: the model's trained parameters, by name.

        Returns:
            Gradients of those that are used here, by name, in the parameters' shapes; sparse where rows are looked up.
        """
        wanted = {name: trained[name] for name in self.parameters if name in trained}
        if self.bilinear and all(self.is_parameter(value) for value in self.args[1:3] if value is not None):
            of_each = bilinear_gradients(self.func, self.args, self.x, output_gradient[0])
            given = [(self.sources.get(id(value)), g) for value, g in zip(self.args[1:3], of_each, strict=False)]
            return {one.names[0]: gradient() for one, gradient in given if one and one.names[0] in wanted}
        rows = gradient_of_rows(self.func, self.args, self.kwargs, output_gradient[0])
        if rows is not None and all(one.recipe is None for one in self.sources.values()):
            return dict.fromkeys(wanted, rows)
        with torch.enable_grad():
            with drawing_again(self.again, self.data[0].device):
                outputs = leaves(self.call(primal_of, weights=lambda value: value))
            attached = [(s, g) for s, g in zip(outputs, output_gradient, strict=True) if s.requires_grad]
            found = torch.autograd.grad(
                [s for s, _ in attached],
                list(wanted.values()),
                [g for _, g in attached],
                retain_graph=True,  # the graph of a derived weight is that of all its uses
                allow_unused=True,
            )
        return {name: g for name, g in zip(wanted, found, strict=True) if g is not None}

    def is_parameter(self, value: Any) -> bool:
        """Whether an argument is a parameter itself, not made of parameters."""
        source = self.sources.get(id(value))
        return source is not None and source.recipe is None


class Pass:
    """What a pass does where the forward meets parameters.

    Without more, parameters are themselves without a graph, and other operations as they are.
    """

    mode: "Uses"
    """The mode of the forward that runs, set by `run`."""
    counts: Mapping[str, int]
    """How often the forward met each layer, set by `run`."""

    def visit(self, use: Use) -> Outputs:
        """The output that the forward goes on with."""
        raise NotImplementedError

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        """What an elementwise operation has in place of the parameter."""
        return parameter.detach()

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        """An operation without parameters, or with stand-ins for them."""
        return func(*args, **kwargs)


class Uses(TorchFunctionMode):
    """Hands each use to a pass. `run` calls a model within it."""

    def __init__(self, model: nn.Module, one_pass: Pass) -> None:
        super().__init__()
        self.sources = {id(p): Source((name,), p) for name, p in model.named_parameters()}
        self.one_pass = one_pass
        self.tail: Tail | None = getattr(one_pass, "tail", None)
        """Of a pass that sees a model end at its last sites, as one does that gives its own loss."""
        self._note_drawn: Callable[[], None] = getattr(one_pass, "note_drawn_for_weights", lambda: None)
        self._within = transforms()
        self._changed: set[int] = set()
        """The ids of sources that have been changed in place."""
        self.counts: dict[str, int] = {}
        self._reader = Reader()
        self._stand_ins: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            return self._reader.read(func, _constant(args[0]))
        if func in _ASKING_FOR_GRAPH:  # as forwards do for checkpoints: here all graphs are the passes' own
            return args[0] if func is Tensor.requires_grad_ else None
        if not torch.is_grad_enabled():
            return func(*mapped(_constant, args), **mapped(_constant, kwargs))
        refuse_unfollowed(func)
        if func is PACK:  # without a forward-mode formula
            func = derivable(func)
        func = BY_HAND.get(func, func)
        sources, data = {}, False
        for value in _flat(args, kwargs):
            if id(value) in self.sources:
                sources[id(value)] = self.sources[id(value)]
            elif isinstance(value, Tensor):
                data = True
        if not sources:
            with of_part(func):
                return self.one_pass.operate(func, args, kwargs)
        if transforms() > self._within:
            raise ModelRefused(
                f"parameter '{next(iter(sources.values())).names[0]}' is used within torch.func (vmap, grad, ...) or "
                "torch.vmap, which no pass can look into: write it out with a batch axis, or use backprop"
            )
        if not data:
            return self._made_of_parameters(func, args, kwargs, sources)
        if func is F.multi_head_attention_forward:
            return self._looked_into(func, args, kwargs)
        weights = [one.tensor for one in sources.values()]
        # What is complex has no guess. Its real numbers lie in a piece.
        if func in CONTRACTIONS and any(w.dim() > 1 for w in weights) and not any(w.is_complex() for w in weights):
            return self._visited(Use(self._name(sources), func, args, kwargs, sources))
        return self.one_pass.operate(func, mapped(self.substituted, args), mapped(self.substituted, kwargs))

    def _visited(self, use: Use) -> Outputs:
        if self.tail is None:
            return self.one_pass.visit(use)
        return self.tail.after(use.name, self.one_pass.visit(use.on(self.tail.before)))

    def _name(self, sources: Mapping[int, Source]) -> str:
        """The module's name where its weight is called `weight` or several are used at once, else the parameter's."""
        weights = [one.names[0] for one in sources.values() if one.tensor.dim() > 1]
        owner, _, own = _PARAMETRISED.sub(r"\1", weights[0]).rpartition(".")
        base = owner if own == "weight" or (len(weights) > 1 and owner) else f"{owner}.{own}".removeprefix(".")
        number = self.counts[base] = self.counts.get(base, 0) + 1
        return base if number == 1 else f"{base}#{number}"

    def _made_of_parameters(
        self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], sources: Mapping[int, Source]
    ) -> Any:
        device = next(iter(sources.values())).tensor.device
        before, again = [one.get_state() for one in default_generators(device)], layers_again(device)
        versions = [(one.tensor, one.tensor._version) for one in sources.values()]
        made = func(*args, **kwargs)
        self._changed |= {id(one) for one, version in versions if one._version != version}
        if not isinstance(made, Tensor | tuple | list):
            return made
        after = [one.get_state() for one in default_generators(device)]
        drew = not all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        if drew:
            self._note_drawn()
        several = not isinstance(made, Tensor)
        names = tuple(dict.fromkeys(name for one in sources.values() for name in one.names))
        attached = any(one.tensor.requires_grad for one in sources.values())
        for index, one in enumerate(made if several else (made,)):
            if not isinstance(one, Tensor) or id(one) in self.sources:
                continue
            if not (one.is_floating_point() or one.is_complex()):
                continue
            # Else it was detached, and is a constant. Within torch.func no graph tells that.
            functorch: Any = torch._C
            within_func = functorch._functorch.peek_interpreter_stack() is not None
            if one.requires_grad or not attached or (within_func and func not in _DETACHING):
                recipe = func, args, kwargs, index if several else None
                self.sources[id(one)] = Source(names, one, recipe, again if drew else None)
        return made

    def substituted(self, value: Any) -> Any:
        """What stands in for a parameter, or for what was made of parameters; any other value itself."""
        source = self.sources.get(id(value))
        if source is None:
            return value
        if id(value) in self._changed:
            raise ModelRefused(
                f"what is made of parameter '{source.names[0]}' is changed in place, which this method cannot follow: "
                "make a new tensor of it (torch.where, torch.cat, w * mask), or use activation-perturbation, where a "
                "layer uses it, or backprop"
            )
        if id(value) not in self._stand_ins:
            if source.recipe is None:
                found = self.one_pass.stand_in(source.names[0], source.tensor)
            else:
                func, args, kwargs, index = source.recipe
                with drawing_again(source.again, source.tensor.device):
                    made = derivable(func)(*mapped(self.substituted, args), **mapped(self.substituted, kwargs))
                found = made if index is None else made[index]
            self._stand_ins[id(value)] = found
        return self._stand_ins[id(value)]

    def forget(self) -> None:
        """Let go of all stand-ins. They are made again where their parameters are met next."""
        self._stand_ins.clear()

    def _looked_into(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """A function written in Python, run so that this mode sees what it is made of."""
        functions: Any = F  # whose names are those that its code looks up
        asked = functions.has_torch_function
        functions.has_torch_function = lambda *_: False
        try:
            with self:
                return func(*args, **kwargs)
        finally:
            functions.has_torch_function = asked


def run(model: nn.Module, inputs: Any, one_pass: Pass) -> Outputs:
    """The model's outputs, as a pass makes them of its uses.

    Args:
        model: any module. Its parameters are left without a graph and as they are.
        inputs: a tensor, or a tuple of positional or a mapping of keyword arguments.
        one_pass: what is done at uses. `one_pass.mode` is set to the mode, for the time of the call.

    Returns:
        What the model returns; where it gives its own loss, what its last sites give, as `Tail` says.
    """
    with torch.enable_grad():
        with math_attention(), plain_checkpoints(), Uses(model, one_pass) as mode:
            one_pass.mode = mode
            try:
                outputs = call(model, mapped(_without_graph, inputs))
            finally:
                # The mode has the pass. This reference cycle would keep all that it saw until the collector runs.
                del one_pass.mode
        one_pass.counts = mode.counts
        return outputs if mode.tail is None else mode.tail.ended(outputs)


def one_way(before: Mapping[str, int] | None, counts: Mapping[str, int]) -> Mapping[str, int]:
    """The layers that the forwards of a step have met.

    Raises:
        ModelRefused: where one has met others: the tangents of the two belong to no one function.
    """
    other = [] if before is None else sorted(one for one in {*before, *counts} if before.get(one) != counts.get(one))
    if other:
        raise ModelRefused(
            f"the forward takes another way when it is run again on the same batch, at layer '{other[0]}': "
            "its way depends on what torch does not draw. Use activation-perturbation with one tangent and memory "
            "store, which runs it once, or backprop"
        )
    return counts


def _without_graph(value: Any) -> Any:
    """Without a graph, in the same memory; a tangent is kept, which `detach` drops."""
    return value.detach() if isinstance(value, Tensor) and value.requires_grad else value


def call(model: Callable[..., Outputs], inputs: Any) -> Outputs:
    """The model on a tensor, a tuple of positional or a mapping of keyword arguments."""
    if isinstance(inputs, tuple | list):
        return model(*inputs)
    return model(**inputs) if isinstance(inputs, Mapping) else model(inputs)


_DETACHING = {Tensor.detach, torch.detach, Tensor.data.__get__}  # pyright: ignore[reportAttributeAccessIssue]
_ASKING_FOR_GRAPH = {
    Tensor.requires_grad.__set__, Tensor.requires_grad_, Tensor.retain_grad,  # pyright: ignore[reportAttributeAccessIssue]
}  # fmt: skip
_PARAMETRISED = re.compile(r"parametrizations\.(\w+)\.original\d*$")


def _constant(value: Any) -> Any:
    """Without tangent and graph, in the same memory, so that changes in place arrive."""
    return forward_ad.unpack_dual(value).primal.detach() if isinstance(value, Tensor) else value


def _flat(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Any]:
    for value in (*args, *kwargs.values()) if kwargs else args:
        yield from value if isinstance(value, tuple | list) else (value,)
