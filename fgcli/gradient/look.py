"""The look at a network before its first step: a few small forwards that find its sites and how they are connected.

1. On two samples, cut at every use, with a recorded graph: what each site reaches next, which activations lie between
   two of them, what draws random numbers.
2. On three samples: an axis that grew holds the samples, and a parameter that reached an operation unseen is found.
3. On three samples with dual numbers, the first alone perturbed, in the inputs and then at the sites: that shows where a
   sample's entries are, and a tangent that arrives at another from a site shows that samples meet. Then, and where
   the forward takes no batch but this one, the batch is one sample with one δ: right, and noisier.
4. On three samples, twice each: whether several tangents can be carried by a batch that is repeated.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.gradient.buffers import BufferState
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.operations import RECURRENT
from fgcli.gradient.passes import OneTangent, Seen, SeveralTangents, repeated
from fgcli.gradient.randomness import default_generators, layers_again
from fgcli.gradient.sites import ELEMENTWISE, NOWHERE, Activation, Layout, Link, Network, Site
from fgcli.gradient.uses import (
    Outputs,
    Use,
    Uses,
    batch_size,
    first_tensor,
    leaves,
    mapped,
    primal_of,
    rebuilt,
    run,
    tangent_of,
)

SMALL, LARGER = 2, 3
SEVERAL = "has an output that several operations use"


def look(model: nn.Module, inputs: Any, *, whole: bool = False) -> Network:
    """The sites of a model, looked at on a few samples. Torch's generators and the buffers are as before afterwards.

    Args:
        model: any module.
        inputs: what it is called with: tensors whose first axis is the batch, in a tuple or a mapping perhaps.
        whole: look at these samples all together, which are then taken as one sample.

    Returns:
        What every estimator that perturbs sites needs to know.

    Raises:
        ModelRefused: for an operation without a forward-mode formula, and for a parameter that is used unseen.
    """
    again = layers_again(first_tensor(inputs).device)
    buffers = BufferState(model)
    try:
        small = few(inputs, SMALL)
        try:
            if whole:
                network = _looked_at(model, inputs, inputs, again).as_one_sample(
                    "the forward's way is the whole batch's"
                )
            else:
                network = _looked_at(model, small, few(inputs, LARGER), again)
        except (ModelRefused, NotImplementedError):
            raise
        except Exception:  # the forward takes no batch of another size, or fails on this one too, which is seen then
            again()
            network = _looked_at(model, inputs, inputs, again).as_one_sample(
                "the forward takes no batch of another size"
            )
        if not network.mixes:
            network = _probed(model, few(inputs, LARGER), network, again)
        return replace(network, buffers=buffers.changed())
    finally:
        again()
        buffers.restore()


def _looked_at(model: nn.Module, small: Any, larger: Any, again: Any) -> Network:
    connections, shapes = _Connections(model, first_tensor(small).device), _Shapes(model)
    outputs = run(model, small, connections)
    again()
    grown = run(model, larger, shapes)
    again()
    connections.end(outputs)
    shapes.refuse_unseen(grown)
    return _network(model, connections, shapes, outputs, grown, (batch_size(small), batch_size(larger)))


def few(inputs: Any, samples: int) -> Any:
    """The first samples of the inputs, from the start again where there are fewer."""

    def taken(value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.dim():
            return value
        return value[torch.arange(samples, device=value.device) % len(value)]

    return mapped(taken, inputs)


class _Looking:
    """What both kinds of looks note."""

    mode: Uses

    def __init__(self) -> None:
        self.pieces: dict[str, None] = {}

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


class _Connections(_Looking):
    """The network cut at its uses, with the graph of what lies between, and all operations."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.generators = default_generators(device)
        self.uses: dict[str, Use] = {}
        self.given: dict[str, list[Tensor]] = {}
        """What a use gives, with its graph."""
        self.going: dict[str, list[Tensor]] = {}
        """The leaves that go on in its place."""
        self.drawing: set[Any] = set()
        self.draws_apart = False
        self.takers: dict[int, list[_Event]] = {}
        """By the id of a tensor: the operations that take it, in their order."""
        self.handed: dict[str, Outputs] = {}

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
        before = [generator.get_state() for generator in self.generators]
        outputs = operation()
        if any(not torch.equal(g.get_state(), b) for g, b in zip(self.generators, before, strict=True)):
            self.drawing.add(func)
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
            if event.func is not F.dropout:
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
        owners = {id(leaf): name for name, some in self.going.items() for leaf in some}
        found, seen = set(), set()
        ahead = [value.grad_fn for value in values if value.grad_fn is not None]
        while ahead:
            node = ahead.pop()
            if node in seen:
                continue
            seen.add(node)
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in owners:
                found.add(owners[id(variable)])
            ahead.extend(following for following, _ in node.next_functions if following is not None)
        return found


def _is_plain_linear(use: Use) -> bool:
    """Whether it is a linear layer whose weight is a parameter itself."""
    return use.func is F.linear and use.bilinear and use.is_parameter(use.args[1])


def _is_elementwise(event: _Event, value: Tensor) -> bool:
    if event.use is not None or not event.args or event.args[0] is not value or not isinstance(event.result, Tensor):
        return False
    if event.func is F.dropout:
        return not event.kwargs.get("training", (*event.args, True, True)[2])
    return event.func in ELEMENTWISE


class _Shapes(_Looking):
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
        return func(*args, **kwargs)

    def refuse_unseen(self, values: Any) -> None:
        """ModelRefused where a parameter has been used by what shows no operation: all that is seen has no graph."""
        for value in leaves(values):
            if value.requires_grad and value.grad_fn is not None:
                names = sorted(self.names[id(p)] for p in _parameters_behind(value) if id(p) in self.names)
                which = f"parameter '{names[0]}'" if names else "a tensor that requires a gradient"
                raise ModelRefused(
                    f"{which} is used after {self._after} by an operation that no forward pass can look into "
                    f"({value.grad_fn.name()}: a torch.autograd.Function, say): use torch's own operations, or backprop"
                )

    def changed(self, name: str) -> bool:
        """Whether an input of that site was changed in place afterwards."""
        return any(value._version != version for value, version in self.inputs[name])


def _parameters_behind(value: Tensor) -> list[Tensor]:
    found, seen, ahead = [], set(), [value.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            found.append(variable)
        ahead.extend(following for following, _ in node.next_functions)
    return found


def _network(
    model: nn.Module,
    connections: _Connections,
    shapes: _Shapes,
    outputs: Outputs,
    grown: Outputs,
    sizes: tuple[int, int],
) -> Network:
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if list(connections.uses) != list(shapes.shapes):
        raise RuntimeError("the forward takes another way with another batch")
    before = {name: connections.reached(given) for name, given in connections.given.items()}
    at_output = connections.reached(leaves(outputs))
    mixed = ""
    sites = {}
    for name, use in connections.uses.items():
        small = [one.shape for one in connections.going[name]]
        layouts = [_layout(a, b, sizes) for a, b in zip(small, shapes.shapes[name], strict=True)]
        if None in layouts:
            mixed = mixed or f"site '{name}' has samples along several axes"
        way = connections.way(name)
        sites[name] = Site(
            name,
            use.parameters,
            any(parameter in trained for parameter in use.parameters),
            tuple(layout or NOWHERE for layout in layouts),
            way if isinstance(way, Link) else None,
            "" if isinstance(way, Link) else way,
            tuple(following for following, sources in before.items() if name in sources),
            name in at_output,
            shapes.changed(name),
        )
    pairs = zip(leaves(outputs), leaves(grown), strict=True)
    output_layouts = [_layout(a.shape, b.shape, sizes) for a, b in pairs]
    at_sites = {parameter for site in sites.values() for parameter in site.parameters}
    pieces = tuple(name for name in connections.pieces if name in trained - at_sites)
    network = Network(
        sites,
        pieces,
        tuple(name for name in connections.pieces if name in trained & at_sites),
        tuple(name for name, _ in model.named_parameters() if name in trained - at_sites - set(pieces)),
        tuple(layout or NOWHERE for layout in output_layouts),
        drawing=frozenset(connections.drawing),
        draws_apart=connections.draws_apart,
    )
    if None in output_layouts:
        mixed = mixed or "the model's output has samples along several axes"
    return network.as_one_sample(mixed) if mixed else network


def _layout(small: Sequence[int], larger: Sequence[int], sizes: tuple[int, int]) -> Layout | None:
    """Where samples are, from the shapes for two batches; None where that is on no single axis."""
    if len(small) != len(larger):
        return None
    grown = [axis for axis, (one, other) in enumerate(zip(small, larger, strict=True)) if one != other]
    if not grown:
        return NOWHERE
    (axis, *more), (n, m) = grown, sizes
    if more or small[axis] * m != larger[axis] * n or small[axis] % n:
        return None
    return Layout(axis, small[axis] != n)


def _probed(model: nn.Module, inputs: Any, network: Network, again: Callable[[], None]) -> Network:
    """The network, with the order of samples that are folded, or with its batch as one sample where samples meet."""
    # Samples that meet before the first site do no harm: that pass only tells where samples are.
    for perturbed in (False, True):
        again()
        probe = _Probe(network, perturbed)
        with torch.no_grad(), forward_ad.dual_level():
            try:
                outputs = leaves(run(model, inputs if perturbed else mapped(_first_moves, inputs), probe))
            except NotImplementedError as cause:  # a torch.autograd.Function, which shows no operation
                raise without_formula("an operation", probe.after, cause) from cause
            pairs = zip(network.output_layouts, outputs, map(tangent_of, outputs), strict=True)
            layouts = [probe.settled(*one) for one in pairs]
        network = replace(network, sites={**network.sites, **probe.sites}, output_layouts=tuple(layouts))
    if probe.met:
        return network.as_one_sample(probe.met[0])
    return replace(network, by_rows=_is_same_in_rows(model, inputs, network, again))


def _is_same_in_rows(model: nn.Module, inputs: Any, network: Network, again: Callable[[], None]) -> bool:
    """Whether all sites, outputs and their tangents are the same where the batch is repeated."""
    found: list[list[Tensor]] = []
    with torch.no_grad(), forward_ad.dual_level():
        for rows in (1, 2):
            seen: list[Tensor] = []

            def note(site: Site, _: Seen, s: Tensor, seen: list[Tensor] = seen, rows: int = rows) -> Tensor | None:
                seen.append(s)
                return _ramp(s).expand(rows, *s.shape) if site.has_samples else None

            one_pass = SeveralTangents(network, note, {}, LARGER, rows, rows)
            again()
            try:
                outputs = leaves(run(model, repeated(inputs, rows, LARGER), one_pass))
            except Exception:  # a batch of that size leads another way, or none
                return False
            for layout, one in zip(network.output_layouts, outputs, strict=True):
                both = [part for part in forward_ad.unpack_dual(one) if part is not None]
                seen += both if layout.axis is None else [layout.by_sample(b, rows * LARGER)[:LARGER] for b in both]
            found.append(seen)
    return len(found[0]) == len(found[1]) and all(map(_are_near, *found))


def _are_near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one - other).nan_to_num().norm() <= 1e-3 * one.nan_to_num().norm())


def _first_moves(value: Any) -> Any:
    """A tensor of inputs with a tangent of its first sample."""
    return forward_ad.make_dual(value, _ramp_of_first(value)) if leaves(value) and value.dim() else value


def _ramp_of_first(values: Tensor) -> Tensor:
    """0, but for the first of [samples, ...]: there a direction that no norm flattens."""
    ramp = torch.zeros_like(values)
    ramp[0] = _ramp(values[0])
    return ramp


def _ramp(values: Tensor) -> Tensor:
    return torch.linspace(-1, 2, values.numel(), device=values.device, dtype=values.dtype).view_as(values)


class _Probe(OneTangent):
    """A dual pass in which the first sample alone is perturbed, and that names what has no forward-mode formula.

    Args:
        network: what is known so far.
        perturbed: whether sites perturb it; else only the inputs do.
    """

    def __init__(self, network: Network, perturbed: bool) -> None:
        super().__init__(network, self._first_alone, {}, LARGER)
        self.perturbed = perturbed
        self.after = "the model's input"
        self.sites: dict[str, Site] = {}
        self.met: list[str] = []

    def _first_alone(self, site: Site, seen: Seen, s: Tensor) -> Tensor | None:
        self.after = f"site '{site.name}'"
        return _ramp_of_first(s) if self.perturbed and site.has_samples else None

    def arrive(self, site: Site, given: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Site:
        layouts = [self.settled(*one) for one in zip(site.layouts, given, tangents, strict=True)]
        self.sites[site.name] = replace(site, layouts=tuple(layouts))
        return self.sites[site.name]

    def settled(self, layout: Layout, value: Tensor, tangent: Tensor | None) -> Layout:
        """The layout in which the first sample alone has a tangent; noted where there is none."""
        interleaved = replace(layout, interleaved=True)
        for one in (layout, interleaved) if layout.folded else (layout,):
            if tangent is None or not _others_move(one.by_sample(tangent, LARGER)):
                return one
        self.met.append(f"samples meet after {self.after}")
        return layout

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        with naming(func, self.after):
            return func(*args, **kwargs)

    def visit(self, use: Use) -> Outputs:
        with naming(use.func, self.after):
            return super().visit(use)


def _others_move(tangents: Tensor) -> bool:
    """Whether samples other than the first have a tangent; NaN (a slope of inf, times 0) is one."""
    others = tangents[1:] if len(tangents) == LARGER else tangents
    return bool((others.nan_to_num(1.0) != 0).any())


@contextmanager
def naming(func: Any, after: str) -> Iterator[None]:
    """Within it, the error for an operation without a forward-mode formula is a ModelRefused that names its place."""
    try:
        yield
    except NotImplementedError as cause:
        raise without_formula(getattr(func, "__name__", str(func)), after, cause) from cause


def without_formula(operation: str, after: str, cause: NotImplementedError) -> ModelRefused:
    """The refusal of an operation without a forward-mode formula."""
    return ModelRefused(
        f"{after} is followed by {operation}, which has no forward-mode formula ({str(cause).splitlines()[0]}); use "
        "another operation, or the method backprop"
    )
