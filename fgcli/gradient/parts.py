"""A batch estimated in parts, with the noise of the whole batch: what an estimate holds at once is that of one part.

The numbers are those of the batch taken whole, to the order of sums over parts, or to the bit where it is one part.
"""

from collections.abc import Callable, Collection
from functools import partial

import torch
from torch import Tensor, nn

from fgcli.gradient.driven_site import DrivenSite
from fgcli.gradient.estimator import Batch, Estimate
from fgcli.gradient.randomness import DRAWN_AT_ONCE, ContinuedRng, StepRng, layers_draw
from fgcli.gradient.sites import Site
from fgcli.gradient.tangents import Tangents

Add = Callable[[dict[str, Tensor]], None]
EstimatePart = Callable[[Batch, StepRng, Add], tuple[Tensor, Tensor]]
"""(part, its streams, what takes the gradients of its mean loss, to keep) -> losses [batch], δ [batch, K]."""


def parts_of(
    model: nn.Module, inputs: Tensor, size: int, sites: Collection[DrivenSite], tangents: Tangents
) -> list[slice]:
    """Rows of the batch that are taken together, about `size`; all, wherever parts would have other guesses."""
    samples, blocks = len(inputs), len(inputs) // DRAWN_AT_ONCE
    number = min(-(-samples // (DRAWN_AT_ONCE * max(size // DRAWN_AT_ONCE, 1))), blocks)
    if (
        samples <= size
        or number <= 1
        or inputs.device.type != "cpu"
        or tangents.draws == "rademacher"
        or not all(one.takes_parts for one in sites)
        or layers_draw(model, inputs)
    ):
        return [slice(0, samples)]
    starts = [DRAWN_AT_ONCE * (blocks * part // number) for part in range(number)]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


@torch.no_grad()
def estimate_in_parts(
    estimate: EstimatePart, parts: Collection[slice], sites: Collection[DrivenSite], batch: Batch, rng: StepRng
) -> Estimate:
    """The sum of the parts' estimates, each weighted by its share of the batch."""
    rng = ContinuedRng(rng.streams, rng.step) if len(parts) > 1 else rng
    memories = _MeanMemories([one.site for one in sites])
    gradients: dict[str, Tensor] = {}
    losses, deltas = [], []
    for rows in parts:
        part = Batch(batch.inputs[rows], batch.targets[rows])
        share = len(part.inputs) / len(batch.inputs)
        loss_of_part, delta = estimate(part, rng, partial(_add, gradients, share))
        losses.append(loss_of_part)
        deltas.append(delta.squeeze(1).mul_(share))
        if isinstance(rng, ContinuedRng):
            rng.advance()
            memories.take(share)
    memories.put()
    return Estimate(torch.cat(losses), gradients, torch.cat(deltas))


def _add(gradients: dict[str, Tensor], share: float, more: dict[str, Tensor]) -> None:
    for name, gradient in more.items():
        if name in gradients:
            gradients[name].add_(gradient, alpha=share)
        else:
            gradients[name] = gradient.mul_(share) if share < 1 else gradient


class _MeanMemories:
    """What a method's `map` keeps of the parts in `site.memory`, means over their samples, as those of the batch."""

    def __init__(self, sites: Collection[Site]) -> None:
        self._sites = [(site, dict(site.memory), dict[str, Tensor]()) for site in sites]

    def take(self, share: float) -> None:
        """Add what a part has left, and bring the memories back to where they were before it."""
        for site, before, means in self._sites:
            for key, value in site.memory.items():
                if value is not before.get(key):
                    means[key] = means.get(key, 0) + share * value
            site.memory.clear()
            site.memory.update(before)

    def put(self) -> None:
        for site, _, means in self._sites:
            site.memory.update(means)
