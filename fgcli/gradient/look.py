"""The look at a network before its first step: a few small forwards that find its sites and how they are connected.

1. On two samples, cut at every use, with a recorded graph: what each site reaches next, which activations lie between
   two of them, what draws random numbers.
2. On three samples: an axis that grew holds the samples, and a parameter that reached an operation unseen is found.
3. On three samples with dual numbers, the first alone perturbed, in the inputs and then at the sites: that shows where
   a sample's entries are, and a tangent that arrives at another from a site shows that samples meet. Then, and where
   the forward takes no batch but this one, the batch is one sample with one δ: right, and noisier.
4. On three samples, twice each: whether several tangents can be carried by a batch that is repeated.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fgcli.gradient.buffers import BufferState
from fgcli.gradient.connections import Connections, Shapes
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.nested import batch_size, first_tensor, leaves, mapped
from fgcli.gradient.operations import LOOKUPS, counts_rows
from fgcli.gradient.own_loss import OwnLoss
from fgcli.gradient.part_draws import BY_ROWS
from fgcli.gradient.probe import SAMPLES, probed
from fgcli.gradient.randomness import layers_again
from fgcli.gradient.sites import NOWHERE, PLAIN, Layout, Link, Network, Site
from fgcli.gradient.uses import Outputs, one_way, run

T = TypeVar("T")
SMALL, LARGER = 2, SAMPLES
WEIGHTS = "weights"
"""Among what draws: what is drawn for weights, not for samples."""


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
        network = probed(model, inputs if network.mixes else few(inputs, LARGER), network, again)
        return replace(network, buffers=buffers.changed())
    finally:
        again()
        buffers.restore()


def _looked_at(model: nn.Module, small: Any, larger: Any, again: Any) -> Network:
    device, own_loss = first_tensor(small).device, isinstance(model, OwnLoss)
    connections, shapes = Connections(model, device, attached=own_loss), Shapes(model)
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


def on_few(call: Callable[[Any], T], inputs: Any) -> T:
    """What the call gives for two of the samples; for all where the forward takes no batch of another size."""
    try:
        return call(few(inputs, SMALL))
    except ModelRefused:
        raise
    except Exception:  # one fixed graph, say
        return call(inputs)


def _network(
    model: nn.Module,
    connections: Connections,
    shapes: Shapes,
    outputs: Outputs,
    grown: Outputs,
    sizes: tuple[int, int],
) -> Network:
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    if sizes[0] == sizes[1]:
        one_way(connections.counts, shapes.counts)
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
        if isinstance(way, Link) and layouts != [PLAIN]:
            way = "has an output in which samples are not the rows"
        sites[name] = Site(
            name,
            use.parameters,
            any(parameter in trained for parameter in use.parameters),
            tuple(layout or NOWHERE for layout in layouts),
            way if isinstance(way, Link) else None,
            "" if isinstance(way, Link) else way,
            tuple(following for following, sources in before.items() if name in sources),
            name in at_output,
            use.func in LOOKUPS,
            shapes.changed(name),
        )
    pairs = zip(leaves(outputs), leaves(grown), strict=True)
    own_loss = isinstance(model, OwnLoss)
    output_layouts = [] if own_loss else [_layout(a.shape, b.shape, sizes) for a, b in pairs]
    at_sites = {parameter for site in sites.values() for parameter in site.parameters}
    pieces = tuple(name for name in connections.pieces if name in trained - at_sites)
    network = Network(
        sites,
        pieces,
        tuple(name for name in connections.pieces if name in trained & at_sites),
        tuple(name for name, _ in model.named_parameters() if name in trained - at_sites - set(pieces)),
        tuple(layout or NOWHERE for layout in output_layouts),
        drawing=frozenset(connections.drawing | ({WEIGHTS} if connections.drew_for_weights else set())),
        draws_apart=connections.draws_apart,
        numbers=sum(one.numel() for some in connections.going.values() for one in some) // sizes[0],
        numbers_drawn=connections.numbers_drawn // sizes[0],
        draws_by_rows=_draws_by_rows(connections, shapes, sizes),
        counting=next(
            (name for name, use in connections.uses.items() if counts_rows(use.func, use.args, use.kwargs)), ""
        ),
        own_loss=own_loss,
        behind_last=connections.stand_ins_behind(leaves(outputs)) if own_loss else (),
    )
    network = network.with_ends() if own_loss else network
    if None in output_layouts:
        mixed = mixed or "the model's output has samples along several axes"
    return network.as_one_sample(mixed) if mixed else network


def _draws_by_rows(connections: Connections, shapes: Shapes, sizes: tuple[int, int]) -> bool:
    if connections.draws_apart or connections.drew_for_weights or not connections.drawing <= BY_ROWS:
        return False
    pairs, (n, m) = zip(connections.may_draw, shapes.may_draw, strict=True), sizes
    return all(a[0] * m == b[0] * n and a[0] % n == 0 and a[1:] == b[1:] for a, b in pairs)


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
