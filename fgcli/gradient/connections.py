"""The first forwards of a look: the network cut at its uses, all its operations, and the shapes for another batch."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.gradient.by_hand import dropout
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.nested import behind, leaves, primal_of, rebuilt
from fgcli.gradient.operations import RECURRENT
from fgcli.gradient.part_draws import BY_ROWS
from fgcli.gradient.randomness import default_generators
from fgcli.gradient.sites import ELEMENTWISE, Activation, Link
from fgcli.gradient.uses import Outputs, Pass, Use

SEVERAL = "has an output that several operations use"


class _Looking(Pass):
    """What both kinds of looks note."""

    def __init__(self) -> None:
        self.pieces: dict[str, None] = {}
        self.may_draw: list[torch.Size] = []
        """Shapes of what operations that may draw by rows were given, in their order."""

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        self.pieces[name] = None
        return parameter.detach()


@dataclass(frozen=True)
class _Event:
    """An operation that was seen. It is kept, so that the id of no tensor is another's."""

    func: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    result: Any
    use: Use | None = None


class Connections(_Looking):
    """The network cut at its uses, with the graph of what lies between, and all operations."""

    def __init__(self, model: nn.Module, device: torch.device, *, attached: bool = False) -> None:
        super().__init__()
        self.attached = attached
        """Whether trained parameters in the pieces are seen in the graph."""
        self.standing: dict[str, Tensor] = {}
        self.generators = default_generators(device)
        self.uses: dict[str, Use] = {}
        self.given: dict[str, list[Tensor]] = {}
        """What a use gives, with its graph."""
        self.going: dict[str, list[Tensor]] = {}
        """The leaves that go on in its place."""
        self.drawing: set[Any] = set()
        self.draws_apart, self.drew_for_weights, self.numbers_drawn = False, False, 0
        self.takers: dict[int, list[_Event]] = {}
        """By the id of a tensor: the operations that take it, in their order."""
        self.handed: dict[str, Outputs] = {}

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        found = super().stand_in(name, parameter)
        if not self.attached or not parameter.requires_grad:
            return found
        self.standing[name] = found.requires_grad_()
        return found.clone()  # which the forward may change in place

    def note_drawn_for_weights(self) -> None:
        """Called where what is made of parameters alone draws, as Dropout of a weight does."""
        self.drew_for_weights = True

    def visit(self, use: Use) -> Outputs:
        outputs = self._drawn(use.func, use.data, lambda: use.call(lambda value: value))
        self.uses[use.name] = use
        self.given[use.name] = leaves(outputs)
        self.going[use.name] = [one.detach().requires_grad_() for one in leaves(outputs)]
        handed = self.handed[use.name] = rebuilt(outputs, [one.clone() for one in self.going[use.name]])
        self._note(_Event(use.func, use.args, use.kwargs, handed, use))
        return handed

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        outputs = self._drawn(func, leaves((args, tuple(kwargs.values()))), lambda: func(*args, **kwargs))
        if leaves(outputs):
            self._note(_Event(func, args, kwargs, outputs))
        return outputs

    def end(self, outputs: Outputs) -> None:
        """Note what the model gives."""
        self._note(_Event(None, (outputs,), {}, None))

    def _note(self, event: _Event) -> None:
        for value in leaves((event.args, tuple(event.kwargs.values()))):
            self.takers.setdefault(id(value), []).append(event)

    def _drawn(self, func: Any, data: Sequence[Tensor], operation: Callable[[], Any]) -> Any:
        before, drawn = [generator.get_state() for generator in self.generators], 0
        if func in BY_ROWS:
            self.may_draw.append(data[0].shape)
            drawn = math.prod((*data[0].shape[:-1], data[1].shape[-2])) if len(data) > 1 else data[0].numel()
        outputs = operation()
        if any(not torch.equal(g.get_state(), b) for g, b in zip(self.generators, before, strict=True)):
            self.drawing.add(func)
            self.numbers_drawn += drawn
            self.draws_apart |= func in RECURRENT or not data
        return outputs

    def way(self, name: str) -> Link | str:
        """From a site to the next linear layer past elementwise activations, or why there is no such way."""
        value, activations = self.handed[name], []
        if not isinstance(value, Tensor) or value.dim() != 2:
            return "has an output that is no vector"
        takers = list(self.takers.get(id(value), []))
        while takers:
            event, *rest = takers
            called = getattr(event.func, "__name__", "the model's output")
            if event.use is not None and _is_plain_linear(event.use) and event.use.x is value:
                weight = event.use.parameters[0]
                return SEVERAL if rest else Link(tuple(activations), event.use.name, weight)
            if not _is_elementwise(event, value):
                where = f"'{event.use.name}'" if event.use else called
                return f"is followed by {where}, which is neither a linear layer nor an elementwise activation"
            if event.func is not dropout:
                activations.append(Activation(event.func, event.args[1:], event.kwargs))
            if event.result is value:  # in place
                takers = rest
            elif rest:
                return SEVERAL
            else:
                value = event.result
                takers = list(self.takers.get(id(value), []))
        return "is followed by the loss alone"

    def reached(self, values: Iterable[Tensor]) -> set[str]:
        """The sites that these depend on without another between."""
        names = {id(leaf): name for name, some in self.going.items() for leaf in some}
        return {names[id(one)] for one in behind(values) if id(one) in names}

    def stand_ins_behind(self, values: Iterable[Tensor]) -> tuple[str, ...]:
        """The trained parameters in the pieces that end there."""
        found = {id(one) for one in behind(values)}
        return tuple(name for name, one in self.standing.items() if id(one) in found)


def _is_plain_linear(use: Use) -> bool:
    """Whether it is a linear layer whose weight is a parameter itself."""
    return use.func is F.linear and use.bilinear and use.is_parameter(use.args[1])


def _is_elementwise(event: _Event, value: Tensor) -> bool:
    if event.use is not None or not event.args or event.args[0] is not value or not isinstance(event.result, Tensor):
        return False
    if event.func is dropout:
        return not event.kwargs.get("training", (*event.args, True, True)[2])
    return event.func in ELEMENTWISE


class Shapes(_Looking):
    """Shapes at every use, inputs that are changed in place afterwards, and parameters that come in unseen."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.shapes: dict[str, list[torch.Size]] = {}
        self.inputs: dict[str, list[tuple[Tensor, int]]] = {}
        self._after = "the model's input"

    def visit(self, use: Use) -> Outputs:
        for value in use.data:
            self.refuse_unseen(value)
        outputs = use.call(primal_of)
        self._after = f"site '{use.name}'"
        self.shapes[use.name] = [one.shape for one in leaves(outputs)]
        self.inputs[use.name] = [(value, value._version) for value in use.data]
        return outputs

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        self.refuse_unseen((args, tuple(kwargs.values())))
        if func in BY_ROWS:
            self.may_draw.append(leaves((args, tuple(kwargs.values())))[0].shape)
        return func(*args, **kwargs)

    def refuse_unseen(self, values: Any) -> None:
        """ModelRefused where a parameter has been used by what shows no operation: all that is seen has no graph."""
        for value in leaves(values):
            if value.requires_grad and value.grad_fn is not None:
                names = sorted(self.names[id(p)] for p in behind([value]) if id(p) in self.names)
                which = f"parameter '{names[0]}'" if names else "a tensor that requires a gradient"
                raise ModelRefused(
                    f"{which} is used after {self._after} by an operation that no forward pass can look into "
                    f"({value.grad_fn.name()}: a torch.autograd.Function, say): use torch's own operations, or backprop"
                )

    def changed(self, name: str) -> bool:
        """Whether an input of that site was changed in place afterwards."""
        return any(value._version != version for value, version in self.inputs[name])
