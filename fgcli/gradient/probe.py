"""The last forwards of a look, with dual numbers: where a sample's entries are, and whether samples meet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.gradient.by_hand import attention, dropout
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.nested import leaves, mapped, tangent_of
from fgcli.gradient.operations import packed
from fgcli.gradient.passes import OneTangent, Seen, SeveralTangents, repeated
from fgcli.gradient.reads import read_once
from fgcli.gradient.sites import Layout, Network, Site
from fgcli.gradient.uses import Outputs, Use, run

SAMPLES = 3
"""Of two, standardised values of the second would be those of the first with their sign turned."""
DROPOUTS = {
    dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
    torch.dropout, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout,
}  # fmt: skip
ORDERS = {"argsort", "sort", "msort", "topk", "randperm", "nonzero", "where", "multinomial", "unique"}
"""Operations whose whole numbers may tell an order of the samples, by name."""
INDEXING = {
    "__getitem__", "__setitem__", "index_select", "gather", "take_along_dim", "scatter", "scatter_", "scatter_add",
    "scatter_add_", "index_add", "index_add_", "index_put", "index_put_", "index_copy", "index_copy_",
}  # fmt: skip
RAGGED = {"masked_select", "masked_scatter", "masked_scatter_"}
SIZES = {"__int__", "__index__", "item", "tolist", "numpy"}


def probed(model: nn.Module, inputs: Any, network: Network, again: Callable[[], None]) -> Network:
    """The network, with the order of samples that are folded, or with its batch as one sample where samples meet.

    ModelRefused for an operation without a forward-mode formula.
    """
    if network.mixes:
        with torch.no_grad(), forward_ad.dual_level():
            _outputs_of(_Probe(network, True, 0, 1), model, inputs, again)
        return network
    # Samples that meet before the first site do no harm: that pass only tells where samples are. Then each sample moves
    # in its turn, since a ReLU may end the way of one of them.
    met: list[str] = []
    reads = sizes = False
    for perturbed, moved in ((False, 0), *((True, sample) for sample in range(SAMPLES))):
        probe = _Probe(network, perturbed, moved)
        with torch.no_grad(), forward_ad.dual_level():
            with read_once() as known:
                outputs = _outputs_of(probe, model, inputs if perturbed else mapped(_first_moves, inputs), again)
            pairs = zip(network.output_layouts, outputs, map(tangent_of, outputs), strict=True)
            # In a loss of the model's own samples may meet: δ comes from its derivative at the last sites.
            layouts = network.output_layouts if network.own_loss else [probe.settled(*one) for one in pairs]
        network = replace(network, sites={**network.sites, **probe.sites}, output_layouts=tuple(layouts))
        met += probe.met if perturbed else []
        reads, sizes = reads or bool(known), sizes or probe.reads_sizes
    folded = next((site.name for site in network.sites.values() if any(one.folded for one in site.layouts)), "")
    if sizes and folded:
        met.append(f"how many entries of site '{folded}' a sample has may be in the values that the forward reads")
    if met:
        return network.as_one_sample(met[0])
    with read_once():
        in_parts = not sizes and _is_same_in_parts(model, inputs, network, again)
    by_rows = _is_same_in_rows(model, inputs, network, again)
    return replace(network, reads=reads, by_rows=by_rows, in_parts=in_parts)


def _outputs_of(probe: "_Probe", model: nn.Module, inputs: Any, again: Callable[[], None]) -> list[Tensor]:
    again()
    try:
        return leaves(run(model, inputs, probe))
    except NotImplementedError as cause:  # a torch.autograd.Function, which shows no operation
        raise without_formula("an operation", probe.after, cause) from cause


def _is_same_in_parts(model: nn.Module, inputs: Any, network: Network, again: Callable[[], None]) -> bool:
    """Whether samples have the outputs that they have within a larger batch: its mean may have made a weight."""
    found: list[list[Tensor]] = []
    for samples in (SAMPLES, SAMPLES - 1):
        again()
        some = Batch(inputs, None).rows(slice(samples)).inputs
        try:
            with torch.no_grad():
                outputs = run(model, some, _Probe(network, False, 0, samples))
        except Exception:  # a batch of that size leads another way, or none
            return False
        pairs = zip(network.output_layouts, leaves(outputs), strict=True)
        found.append(
            [layout.by_sample(one, samples)[: SAMPLES - 1] for layout, one in pairs if layout.axis is not None]
        )
    return all(map(_are_near, *found))


def _is_same_in_rows(model: nn.Module, inputs: Any, network: Network, again: Callable[[], None]) -> bool:
    """Whether all sites, outputs and their tangents are the same where the batch is repeated."""
    found: list[list[Tensor]] = []
    with torch.no_grad(), forward_ad.dual_level():
        for rows in (1, 2):
            seen: list[Tensor] = []

            def note(site: Site, _: Seen, s: Tensor, seen: list[Tensor] = seen, rows: int = rows) -> Tensor | None:
                seen.append(s)
                # In the first row alone: in a mean over the batch, alike tangents would hide that rows meet.
                return _ramp_of(0, s.new_empty(rows, *s.shape)) if site.has_samples else None

            one_pass = SeveralTangents(network, note, {}, SAMPLES, rows, rows)
            again()
            try:
                outputs = run(model, repeated(inputs, rows, SAMPLES), one_pass)
            except Exception:  # a batch of that size leads another way, or none
                return False
            if network.own_loss:  # a sum grows with the rows
                seen.append(outputs["ends"].loss)
            for layout, one in zip(network.output_layouts, leaves(outputs), strict=True):
                both = [part for part in forward_ad.unpack_dual(one) if part is not None]
                seen += both if layout.axis is None else [layout.by_sample(b, rows * SAMPLES)[:SAMPLES] for b in both]
            found.append(seen)
    return len(found[0]) == len(found[1]) and all(map(_are_near, *found))


def _are_near(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    digits = torch.finfo(one.dtype).eps ** 0.5  # half of them: rounding takes some
    return bool((one - other).nan_to_num().norm() <= digits * one.nan_to_num().norm())


def _first_moves(value: Any) -> Any:
    """A tensor of inputs with a tangent of its first sample."""
    return forward_ad.make_dual(value, _ramp_of(0, value)) if leaves(value) and value.dim() else value


def _ramp_of(sample: int, values: Tensor) -> Tensor:
    """0, but for one of [samples, ...]: there a direction that no norm flattens."""
    one, ramp = values[sample], torch.zeros_like(values)
    ramp[sample] = torch.linspace(-1, 2, one.numel(), device=one.device, dtype=one.dtype).view_as(one)
    return ramp


class _Probe(OneTangent):
    """A dual pass in which one sample alone is perturbed, and that names what has no forward-mode formula.

    Args:
        network: what is known so far.
        perturbed: whether sites perturb it; else only the inputs do.
        moved: which sample.
        samples: how many there are.
    """

    def __init__(self, network: Network, perturbed: bool, moved: int, samples: int = SAMPLES) -> None:
        super().__init__(network, self._one_alone, {}, samples)
        self.reads_sizes = False
        """Whether the forward asks for a number, as a branch does: it may be another for a part of the batch."""
        self.perturbed, self.moved = perturbed, moved
        self.after = "the model's input"
        self.sites: dict[str, Site] = {}
        self.met: list[str] = []
        self.orders: dict[int, Tensor] = {}
        """What tells an order of samples that is found in values, or drawn, by its id."""

    def _one_alone(self, site: Site, seen: Seen, s: Tensor) -> Tensor | None:
        self.after = f"site '{site.name}'"
        moves = site.has_samples or bool(self.network.mixes)
        return _ramp_of(self.moved, s) if self.perturbed and moves else None

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        return parameter.detach()  # whichever: inputs that are moved may lead another way

    def arrive(self, site: Site, given: Sequence[Tensor], tangents: Sequence[Tensor | None]) -> Site:
        layouts = [self.settled(*one) for one in zip(site.layouts, given, tangents, strict=True)]
        self.sites[site.name] = replace(site, layouts=tuple(layouts))
        return self.sites[site.name]

    def settled(self, layout: Layout, value: Tensor, tangent: Tensor | None) -> Layout:
        """The layout in which the moved sample alone has a tangent; noted where there is none."""
        interleaved = replace(layout, interleaved=True)
        for one in (layout, interleaved) if layout.folded else (layout,):
            if tangent is None or not self._others_move(one.by_sample(tangent, SAMPLES)):
                return one
        self.met.append(f"samples meet after {self.after}")
        return layout

    def _others_move(self, tangents: Tensor) -> bool:
        """Whether another sample has a tangent; NaN (a slope of inf, times 0) is one."""
        moves = tangents.nan_to_num(1.0) != 0
        if len(tangents) == SAMPLES:
            moves[self.moved] = False
        return bool(moves.any())

    def operate(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Outputs:
        self.reads_sizes |= getattr(func, "__name__", "") in SIZES
        if func in DROPOUTS:  # the mask of another draw leaves other ways open
            x = args[0] if args else kwargs["input"]
            return x * 1
        if func is attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs = {key: 0.0 if key == "dropout_p" else one for key, one in kwargs.items()}
        with naming(func, self.after):
            outputs = func(*args, **kwargs)
        self._note_order(func, args, kwargs, outputs)
        return outputs

    def _note_order(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], outputs: Outputs) -> None:
        """Note that samples meet where rows are taken in an order of their own: of few samples it may be none."""
        name, takes = getattr(func, "__name__", ""), [*args, *kwargs.values()]
        if name in ORDERS or any(id(one) in self.orders for one in _tensors(takes)):
            self.orders |= {id(one): one for one in _tensors([outputs]) if not one.dtype.is_floating_point}
        if func is packed or name in RAGGED or (name == "repeat_interleave" and len(_tensors(takes)) > 1):
            self.met.append(f"samples have as many entries as values say after {self.after}")
        if name not in INDEXING or len(args) < 2 or not isinstance(args[0], Tensor):
            return
        if name == "__setitem__" and not (isinstance(args[2], Tensor) and args[2].dim()):
            return  # a number at places, as attention masks have it
        if name.startswith("__"):
            first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
            rows = [first]
        else:
            dim = args[1] if isinstance(args[1], int) else kwargs.get("dim", 0)
            rows = _tensors(takes[1:]) if dim in (0, -args[0].dim()) else []
        if any(isinstance(one, Tensor) and (id(one) in self.orders or one.dtype == torch.bool) for one in rows):
            self.met.append(f"samples are put in an order after {self.after}")

    def visit(self, use: Use) -> Outputs:
        with naming(use.func, self.after):
            return super().visit(use)


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in nested lists, tuples and mappings, whole numbers too."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, Mapping):
        return _tensors(list(values.values()))
    return [one for value in values for one in _tensors(value)] if isinstance(values, list | tuple) else []


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
