"""What a look at a network finds: its sites, where samples are in them, and what each reaches next."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from fgcli.gradient.nested import batch_size
from fgcli.gradient.own_loss import Tail

ELEMENTWISE = {
    torch.relu, torch.tanh, torch.sigmoid, F.relu, F.gelu, F.tanh, F.sigmoid, F.silu, F.elu, F.leaky_relu, F.softplus,
    F.selu, F.celu, F.relu6, F.hardtanh, F.hardswish, F.hardsigmoid, F.mish, F.logsigmoid, F.softsign, F.tanhshrink,
    torch.relu_, torch.tanh_, torch.sigmoid_, Tensor.relu, Tensor.tanh, Tensor.sigmoid, Tensor.relu_, Tensor.tanh_,
    Tensor.sigmoid_,
}  # fmt: skip
RELUS = {torch.relu, torch.relu_, F.relu, Tensor.relu, Tensor.relu_}


@dataclass(frozen=True)
class Layout:
    """Where samples are in a tensor: along `axis`; None: nowhere."""

    axis: int | None = 0
    folded: bool = False
    """Whether a sample has several entries there."""
    interleaved: bool = False
    """Whether, then, the samples take turns; else a sample's entries are neighbours."""

    def by_sample(self, values: Tensor, samples: int) -> Tensor:
        """In its natural shape -> [samples, ...]; [1, ...] where samples are nowhere."""
        if self.axis is None:
            return values.unsqueeze(0)
        values = values.movedim(self.axis, 0) if self.axis else values
        if self.interleaved:
            return values.unflatten(0, (-1, samples)).transpose(0, 1)
        return values.unflatten(0, (samples, -1)) if self.folded else values

    def natural(self, values: Tensor) -> Tensor:
        """The other way."""
        if self.axis is None:
            return values.squeeze(0)
        values = values.transpose(0, 1) if self.interleaved else values
        values = values.flatten(0, 1) if self.folded else values
        return values.movedim(0, self.axis) if self.axis else values


PLAIN = Layout()
NOWHERE = Layout(None)


@dataclass(frozen=True)
class Activation:
    """An elementwise operation as the forward calls it."""

    func: object
    args: tuple[object, ...] = ()
    keywords: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_in_place(self) -> bool:
        """Whether it changes what it is given, by its name or a flag among its arguments."""
        name = getattr(self.func, "__name__", "_")
        return name.endswith("_") or any(one is True for one in (*self.args, *self.keywords.values()))

    def __call__(self, s: Tensor) -> Tensor:
        return self.func(s, *self.args, **self.keywords)  # pyright: ignore[reportCallIssue]


@dataclass(frozen=True)
class Link:
    """Elementwise activations between a site and a linear layer: W̃ is that layer's weight behind their slope."""

    activations: tuple[Activation, ...]
    next_site: str
    next_weight: str
    """The parameter that is its weight."""

    @property
    def is_in_place(self) -> bool:
        """Whether an activation may change the site's output."""
        return any(one.is_in_place for one in self.activations)

    def slope(self, s: Tensor) -> Tensor:
        """The activations' derivative at s: [batch, d] -> [batch, d]. Call it inside a dual level."""
        if len(self.activations) == 1 and self.activations[0].func in RELUS:
            return s.sign().clamp_min_(0)  # 0 at 0 as in PyTorch; an eighth of the time of (s > 0).to(s.dtype)
        # An elementwise function's Jacobian is diagonal: its product with ones is that diagonal.
        value = forward_ad.make_dual(s.clone(), torch.ones_like(s))
        for activation in self.activations:
            value = activation(value)
        slope = forward_ad.unpack_dual(value).tangent
        return torch.zeros_like(s) if slope is None else slope


@dataclass(frozen=True)
class Site:
    """One use of a weight, as it is in every forward of the network."""

    name: str
    parameters: tuple[str, ...]
    """What it uses, by name."""
    trained: bool
    """Whether one of them is trained. A use of frozen weights cuts the network all the same."""
    layouts: tuple[Layout, ...] = (PLAIN,)
    """Of each tensor that it gives."""
    link: Link | None = None
    """The way to the next site, where W̃ has the form of a matrix behind a slope."""
    reason: str = ""
    """Why there is no such way: completes «site 'x' ...»."""
    reaches: tuple[str, ...] = ()
    """The sites that are reached next."""
    reaches_output: bool = False
    """Whether the model's output is reached without another site."""
    is_lookup: bool = False
    """Whether rows of its weight are looked up, as an embedding does."""
    copied: bool = False
    """Whether the forward changes its input in place afterwards, so that it has to be copied to be kept."""

    @property
    def is_output(self) -> bool:
        """Whether nothing but the model's output is reached."""
        return self.reaches_output and not self.reaches

    @property
    def is_guessed(self) -> bool:
        """Whether there is anything to guess: it is trained, and its output is used."""
        return self.trained and (self.reaches_output or bool(self.reaches))

    @property
    def has_samples(self) -> bool:
        """Whether its output has one part a sample; else it has one guess for the batch."""
        return all(layout.axis is not None for layout in self.layouts)

    def by_sample(self, outputs: Sequence[Tensor], samples: int) -> Tensor:
        """s [samples, *shape] of the tensors that the use gives; [1, *shape] where samples are nowhere.

        Several tensors (an LSTM's states) are one vector a sample.
        """
        if len(outputs) == 1:
            return self.layouts[0].by_sample(outputs[0], samples)
        parts = zip(self.layouts, outputs, strict=True)
        if self.has_samples:
            return torch.cat([layout.by_sample(one, samples).flatten(1) for layout, one in parts], 1)
        return torch.cat([one.reshape(1, -1) for one in outputs], 1)

    def natural(self, s: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """The other way, in these shapes."""
        if len(shapes) == 1:
            return [self.layouts[0].natural(s)]
        parts = s.split([math.prod(shape) // len(s) for shape in shapes], 1)
        if not self.has_samples:
            return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
        found = []
        for layout, part, shape in zip(self.layouts, parts, shapes, strict=True):
            by_sample = layout.by_sample(s.new_empty(shape), len(s))
            found.append(layout.natural(part.reshape(by_sample.shape)))
        return found


@dataclass(frozen=True)
class Network:
    """What is known of a model before its first step."""

    sites: Mapping[str, Site]
    """In the order of the forward."""
    pieces: tuple[str, ...]
    """Trained parameters that meet data elementwise alone, in the pieces between the sites."""
    beside: tuple[str, ...]
    """Trained parameters of sites that meet data elementwise as well."""
    unused: tuple[str, ...]
    """Trained parameters that the forward does not use."""
    output_layouts: tuple[Layout, ...]
    """Of each floating-point tensor that the model gives."""
    mixes: str = ""
    """Why the batch is taken as one sample, with one δ: completes «samples are not told apart: ...»."""
    drawing: frozenset[object] = frozenset()
    """Operations that draw random numbers (Dropout), from torch's default generators."""
    draws_apart: bool = False
    """Whether one of them has no sample's values to belong to, as `torch.rand` has none."""
    draws_by_rows: bool = True
    """Whether all that is drawn is drawn for rows of samples, so that a part of the batch can have its own of it."""
    numbers_drawn: int = 0
    """Then: for a sample."""
    counting: str = ""
    """A site whose backward counts in the batch (an embedding with scale_grad_by_freq)."""
    buffers: tuple[str, ...] = ()
    """Buffers that the forward changes."""
    own_loss: bool = False
    """Whether the model gives its own loss, so that it ends at its last sites: those that reach the output."""
    behind_last: tuple[str, ...] = ()
    """Then: trained parameters that lie between these and the loss."""
    numbers: int = 0
    """That all sites give for a sample."""
    by_rows: bool = True
    """Whether the forward gives the same for a batch that is repeated in it: no x / len(x), say."""
    in_parts: bool = True
    """Whether it gives samples the same in a part of the batch: no mean over it, no number of entries that it reads."""
    reads: bool = False
    """Whether it reads numbers off tensors, as a branch on values does: a part's are then those of the batch."""

    def samples(self, inputs: object) -> int:
        """The number of samples that these inputs are taken as."""
        return 1 if self.mixes else batch_size(inputs)

    def without_lookups(self) -> tuple["Network", tuple[str, ...]]:
        """The network whose tables are frozen, and their names; a table that another layer uses as well stays."""
        elsewhere = {
            *self.beside,
            *(one for site in self.sites.values() if not site.is_lookup for one in site.parameters),
        }
        sites, frozen = dict(self.sites), []
        for name, site in self.sites.items():
            if site.is_lookup and not elsewhere & set(site.parameters):
                sites[name] = replace(site, trained=False)
                frozen += site.parameters
        return replace(self, sites=sites), tuple(dict.fromkeys(frozen))

    @property
    def guessed(self) -> list[Site]:
        """The sites that have a guess."""
        return [site for site in self.sites.values() if site.is_guessed]

    @property
    def has_parts(self) -> bool:
        """Whether a part of the batch has in all passes what it has within the whole."""
        apart = self.by_rows and self.in_parts and not (self.mixes or self.counting or self.buffers or self.behind_last)
        drawn = self.draws_by_rows or not self.drawing
        layouts = [*self.output_layouts, *(layout for site in self.sites.values() for layout in site.layouts)]
        told = all(one.axis is not None for one in self.output_layouts) and not any(one.interleaved for one in layouts)
        return apart and drawn and told

    @property
    def is_chain(self) -> bool:
        """Whether each site reaches the next one alone, and the last the output."""
        sites = list(self.sites.values())
        in_turn = all(one.reaches == (after.name,) and not one.reaches_output for one, after in pairwise(sites))
        return in_turn and bool(sites) and sites[-1].is_output and all(one.has_samples for one in sites)

    def joined(self, other: "Network") -> "Network":
        """What two looks at the same model found on two ways through it."""
        sites = dict(self.sites)
        for name, site in other.sites.items():
            if name in sites:
                before = sites[name]
                same = before.link == site.link
                sites[name] = replace(
                    before,
                    link=before.link if same else None,
                    reason=before.reason if same else "is followed by one thing or another, as values have it",
                    reaches=tuple(dict.fromkeys((*before.reaches, *site.reaches))),
                    reaches_output=before.reaches_output or site.reaches_output,
                    copied=before.copied or site.copied,
                )
            else:
                sites[name] = site
        at_sites = {name for site in sites.values() for name in site.parameters}
        elementwise = dict.fromkeys((*self.pieces, *self.beside, *other.pieces, *other.beside))
        used = {*elementwise, *at_sites}
        found = replace(
            self,
            sites=sites,
            pieces=tuple(name for name in elementwise if name not in at_sites),
            beside=tuple(name for name in elementwise if name in at_sites),
            unused=tuple(name for name in self.unused if name not in used),
            drawing=self.drawing | other.drawing,
            draws_apart=self.draws_apart or other.draws_apart,
            draws_by_rows=self.draws_by_rows and other.draws_by_rows,
            numbers_drawn=max(self.numbers_drawn, other.numbers_drawn),
            numbers=max(self.numbers, other.numbers),
            by_rows=self.by_rows and other.by_rows,
            in_parts=self.in_parts and other.in_parts,
            reads=self.reads or other.reads,
            counting=self.counting or other.counting,
            buffers=tuple(dict.fromkeys((*self.buffers, *other.buffers))),
        )
        mixes = self.mixes or other.mixes
        behind = tuple(dict.fromkeys((*self.behind_last, *other.behind_last)))
        found = replace(found, behind_last=behind).with_ends() if self.own_loss else found
        return found.as_one_sample(mixes) if mixes else found

    def with_ends(self) -> "Network":
        """The network whose outputs are what its last sites give, and what the loss has beside that."""
        layouts = [layout for site in self.sites.values() if site.reaches_output for layout in site.layouts]
        return replace(self, output_layouts=(*layouts, NOWHERE) if self.behind_last else tuple(layouts))

    def tail(self, samples: int, rows: int = 1, *, cut: bool = False) -> Tail | None:
        """What a pass notes of the last sites, where the model gives its own loss; the arguments are Tail's."""
        if not self.own_loss:
            return None
        last = {name: site.layouts for name, site in self.sites.items() if site.reaches_output}
        return Tail(last, samples, rows, pieces=bool(self.behind_last), cut=cut)

    def as_one_sample(self, why: str) -> "Network":
        """The network in which samples are nowhere told apart."""
        sites = {
            name: replace(
                site, layouts=(NOWHERE,) * len(site.layouts), link=None, reason=f"is in a network where {why}"
            )
            for name, site in self.sites.items()
        }
        return replace(self, sites=sites, output_layouts=(NOWHERE,) * len(self.output_layouts), mixes=why)
