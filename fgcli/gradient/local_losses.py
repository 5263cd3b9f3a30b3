"""Local losses: heads at layers of a model, each with a loss of its own, and no derivative from a block to the next.

A block is what lies between two heads. Its weights are trained by its own head's loss L_h alone; the objective is the
sum of all heads' losses and of the model's own. A tangent that starts in a block reaches one loss, so that each block
has a directional derivative of its own, δ_{b,h} = ⟨∂L_h/∂(its logits), their tangent⟩, free of the noise of all other
blocks (LG-FG-A: Ren et al. 2023, arXiv:2210.03310).

A head may give its logits as a sum of parts, one for each position (a patch) and group of channels, z = Σ z_{p,g}: then
δ_{b,h} = Σ δ_{b,h,p,g}, and a unit of the network that reaches some of these parts only takes their δ alone. That is
Ren et al.'s replicated loss: the value is one loss's, the directional derivative is the part's own. The estimate is as
unbiased as with the whole δ, whose other terms are independent of the unit's guess.

Cost: a head's product and loss for each block, and its weights. What is not true of it: that the model's own loss
falls with the objective: it reaches no block before the last head.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.gradient.errors import ModelRefused, OptionRefused, UnknownSite
from fgcli.gradient.estimator import Loss
from fgcli.gradient.look import few
from fgcli.gradient.loss import OutputGradient
from fgcli.gradient.nested import batch_size, described, leaves, tangent_of
from fgcli.gradient.passes import OneTangent
from fgcli.gradient.precision import wide
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.tangents import Tangents
from fgcli.gradient.uses import run

HEADS = "local_heads"
"""The name under which a model has its heads."""
TRIES = 2
"""Random halves of an axis that show whether it is the head's positions, or its groups."""


class LocalHead(nn.Module):
    """A local classifier: a layer's output [batch, ...] -> parts of its logits [batch, positions · groups, outputs].

    The logits are the sum of the parts. Of a model that gives logits for each token, [batch, length, groups, outputs].
    """

    positions: int = 1
    groups: int = 1

    @property
    def parts(self) -> int:
        """The number of parts."""
        return self.positions * self.groups


class LocalLosses(nn.Module):
    """A model with heads, which has the model's own parameters under their own names, and those of the heads.

    In eval mode it is the model. In train mode it gives what `loss_of` takes, [batch, (parts of all heads and 1) ·
    outputs], and no derivative passes a layer that has a head. With logits for each token it is [batch, length, ...].

    Args:
        model: gives [batch, outputs] or [batch, length, outputs].
        heads: by the name of the module at whose output each is.
        outputs: how many numbers the model gives for a sample, or for a token.
    """

    def __init__(self, model: nn.Module, heads: Mapping[str, LocalHead], outputs: int) -> None:
        super().__init__()
        self.__dict__["_plain"] = model  # not as a module, which would change the names
        self.at = {name: name.replace(".", "-") for name in heads}
        """The key of each head, by the name of its module."""
        self.outputs = outputs
        kept = nn.ModuleDict({self.at[name]: head for name, head in heads.items()})
        self._parameters, self._buffers = model._parameters, model._buffers
        self._modules = {**model._modules, HEADS: kept}
        self.sizes = [*(head.parts for head in heads.values()), 1]
        """Parts of each head, and of the model's own output."""
        self.train(model.training)

    @property
    def plain(self) -> nn.Module:
        """The model without its heads, with the same tensors."""
        return self.__dict__["_plain"]

    def train(self, mode: bool = True) -> "LocalLosses":
        self.plain.training = mode
        return super().train(mode)

    @property
    def heads(self) -> dict[str, LocalHead]:
        """By the name of the module that each is at."""
        kept: Any = self._modules[HEADS]
        return {name: kept[key] for name, key in self.at.items()}

    def forward(self, *inputs: Any, **keywords: Any) -> Tensor:
        model = self.plain
        if not self.training:
            return model(*inputs, **keywords)
        found: dict[str, Tensor] = {}

        def at_head(name: str, head: LocalHead, output: Any) -> Any:
            if name in found:
                raise ModelRefused(f"module '{name}' has a local loss and is called twice: put heads at others")
            found[name] = head(output)
            return output.detach()

        own = self.hooked(at_head, inputs, keywords)
        if len(found) < len(self.at) or not isinstance(own, Tensor) or own.shape[-1:] != (self.outputs,):
            missing = [name for name in self.at if name not in found]
            what = f"its forward does not call '{missing[0]}'" if missing else f"it gives {described(own)}"
            raise ModelRefused(f"local losses take a model of outputs [..., {self.outputs}] in train mode; {what}")
        parts = [found[name] for name in self.at]
        return torch.cat([*parts, own.unsqueeze(-2)], -2).flatten(-2)

    def hooked(
        self, at_head: Callable[[str, LocalHead, Any], Any], inputs: Sequence[Any], keywords: Mapping[str, Any] = {}
    ) -> Any:
        """The model's own forward, where `at_head(name, head, output)` gives what goes on from each head's module."""
        model, heads = self.plain, self.heads
        model.training = self.training  # whoever sets the mode of each of `modules()` does not meet it

        def hook_of(name: str) -> Callable[..., Any]:
            return lambda _module, _inputs, output: at_head(name, heads[name], output)

        modules = dict(model.named_modules())
        handles = [modules[name].register_forward_hook(hook_of(name)) for name in heads]
        try:
            return model(*inputs, **keywords)
        finally:
            for handle in handles:
                handle.remove()

    def loss_of(self, loss: Loss) -> Loss:
        """The sum of a loss over the heads and the model's own output; of the model's own outputs, the loss itself.

        Args:
            loss: of the model's own outputs and targets.

        Returns:
            The loss of what the model gives in either mode.
        """

        def summed(outputs: Tensor, targets: Any) -> Tensor:
            if outputs.shape[-1] == self.outputs:
                return loss(outputs, targets)
            by_head = outputs.unflatten(-1, (-1, self.outputs)).split(self.sizes, -2)
            losses = [loss(one.squeeze(-2) if one.shape[-2] == 1 else one.sum(-2), targets) for one in by_head]
            return torch.stack(losses).sum(0)

        return summed


@dataclass(frozen=True)
class Reach:
    """What the output of a site reaches: columns of what the model gives, in units of `outputs`."""

    columns: tuple[slice, ...]
    shape: tuple[int, int] = (1, 1)
    """Positions and groups that these columns are, where `positions` or `groups` is known."""
    positions: int | None = None
    """The axis of a sample's output along which its entries reach one position each."""
    groups: int | None = None
    """The axis whose stretches reach one group each."""


class Locality:
    """Which of the local losses, and which parts of them, each site reaches.

    Args:
        model: with its heads.
        network: what the look at it found.
        inputs: some of a batch.
    """

    def __init__(self, model: LocalLosses, network: Network, inputs: Any) -> None:
        self.outputs, self.number = model.outputs, sum(model.sizes)
        starts = [sum(model.sizes[:number]) for number in range(len(model.sizes))]
        columns = [slice(start, start + size) for start, size in zip(starts, model.sizes, strict=True)]
        keys = list(model.at.values())
        at: dict[str, set[int]] = {}
        for site in network.sites.values():
            of_head = [i for i, key in enumerate(keys) if site.parameters[0].startswith(f"{HEADS}.{key}.")]
            at[site.name] = set(of_head) if of_head else {len(keys)} if site.reaches_output else set()
        for site in reversed(list(network.sites.values())):
            for following in site.reaches:
                at[site.name] |= at[following]
        self.reach = {name: Reach(tuple(columns[one] for one in sorted(found))) for name, found in at.items()}
        heads = list(model.heads.values())
        apart = [i for i, head in enumerate(heads) if head.parts > 1]
        if apart and not network.mixes:
            probe = _Probe(model, network, inputs)
            for site in network.guessed:
                (first, *more) = at[site.name] or {len(heads)}
                if first in apart and not more and not site.is_output and site.has_samples:
                    head = heads[first]
                    self.reach[site.name] = probe.found(site, columns[first], (head.positions, head.groups))

    def columns(self, of_loss: OutputGradient, tangent: Tensor | None, rows: int) -> Tensor:
        """δ [samples, rows, parts] of the output's tangent, for samples that are repeated `rows` times."""
        samples, e, layout = of_loss.samples, of_loss.parts[0], of_loss.layouts[0]
        if tangent is None:
            return e.new_zeros(samples, rows, self.number)
        moved = layout.by_sample(wide(tangent), rows * samples).reshape(rows, samples, -1, self.number, self.outputs)
        return (moved * e.reshape(samples, -1, self.number, self.outputs)).sum((2, 4)).transpose(0, 1)

    def estimate(self, name: str, y: Tensor, columns: Tensor) -> Tensor:
        """ĝ = mean_k δ_k ∘ y_k [samples, *shape] of y [K, samples, *shape], each unit with the δ of what it reaches."""
        reach, shape = self.reach[name], y.shape[2:]
        positions, groups = reach.shape
        delta = torch.stack([columns[..., one].sum(2) for one in reach.columns]).sum(0)
        factor = delta.T.reshape(*y.shape[:2], *[1] * len(shape))
        if reach.positions is not None or reach.groups is not None:
            whole = columns[..., reach.columns[0]].unflatten(2, (positions, groups)).transpose(0, 1)
            whole = whole if reach.positions is not None else whole.sum(2, keepdim=True)
            whole = whole if reach.groups is not None else whole.sum(3, keepdim=True)
            if reach.groups is not None:
                whole = whole.repeat_interleave(shape[reach.groups] // groups, 3)
            if reach.positions is not None and reach.groups is not None and reach.groups < reach.positions:
                whole = whole.transpose(2, 3)
            sizes = [n if axis in (reach.positions, reach.groups) else 1 for axis, n in enumerate(shape)]
            factor = whole.reshape(*y.shape[:2], *sizes)
        return (factor.to(y.dtype) * y).mean(0)


def locality_of(model: nn.Module, network: Network, inputs: Any, tangents: Tangents) -> Locality | None:
    """The Locality of a model with local losses; None for any other. OptionRefused where δ is not taken by the mean."""
    if not isinstance(model, LocalLosses):
        return None
    if tangents.combine != "mean":
        raise OptionRefused(f"combine is {tangents.combine}; with local losses it must be mean: leave it out")
    return Locality(model, network, inputs)


class _Probe:
    """Finds the axes of a site along which its entries reach one part each, by tangents of a few of them.

    The weights are random: where one happens to be 0, it need not stay so.
    """

    def __init__(self, model: LocalLosses, network: Network, inputs: Any) -> None:
        self.network, self.inputs = network, few(inputs, 3)
        self.model, self.outputs = copy.deepcopy(model), model.outputs
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for one in self.model.parameters():
                noise = torch.randn(one.shape, generator=generator)
                one.copy_(noise / (noise[0].numel() ** 0.5 if noise.dim() > 1 else 1.0))

    def found(self, site: Site, columns: slice, shape: tuple[int, int]) -> Reach:
        """What the site's output reaches of a head of `shape`, positions and groups."""
        axes: list[int | None] = [None, None]
        for kind, number in enumerate(shape):
            if number > 1:
                sizes = self._shape(site)
                fitting = [a for a, n in enumerate(sizes) if (n == number if kind == 0 else n % number == 0)]
                own = [a for a in fitting if a not in axes and self._is_own(site, columns, shape, kind, a)]
                axes[kind] = own[0] if own else None
        return Reach((columns,), shape, axes[0], axes[1])

    def _shape(self, site: Site) -> tuple[int, ...]:
        found: list[tuple[int, ...]] = []
        self._reached(site, lambda s: found.append(tuple(s.shape[1:])) or torch.ones_like(s))
        return found[0]

    def _is_own(self, site: Site, columns: slice, shape: tuple[int, int], kind: int, axis: int) -> bool:
        """Whether entries along an axis reach the position, or the group, of their own alone."""
        number = shape[kind]
        for attempt in range(TRIES):
            generator = torch.Generator().manual_seed(attempt)
            chosen = torch.zeros(number)
            chosen[torch.randperm(number, generator=generator)[: max(1, number // 2)]] = 1
            for half in (chosen, 1 - chosen):

                def tangent(s: Tensor, half: Tensor = half) -> Tensor:
                    size = s.shape[axis + 1]
                    mask = half.to(s).repeat_interleave(size // number)
                    noise = torch.randn(s.shape, generator=torch.Generator().manual_seed(1)).to(s)
                    return noise * mask.view(*[-1 if a == axis + 1 else 1 for a in range(s.dim())])

                reached = self._reached(site, tangent)[columns].unflatten(0, shape).any(1 - kind).cpu()
                if bool((reached & (half == 0)).any()):
                    return False
        return True

    def _reached(self, site: Site, tangent: Callable[[Tensor], Tensor]) -> Tensor:
        """[parts]: which of them a tangent at the site's output reaches."""

        def perturb(at: Site, _: Any, s: Tensor) -> Tensor | None:
            return tangent(s) if at.name == site.name else None

        samples = batch_size(self.inputs)
        with torch.no_grad(), forward_ad.dual_level():
            outputs = run(self.model, self.inputs, OneTangent(self.network, perturb, {}, samples))
            moved = tangent_of(leaves(outputs)[0])
        if moved is None:
            raise UnknownSite(site.name)
        return (moved.unflatten(-1, (-1, self.outputs)) != 0).any(-1).flatten(0, -2).any(0)
