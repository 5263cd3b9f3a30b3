"""A batch estimated in parts, with the noise of the whole batch: what an estimate holds at once is that of one part.

The numbers are those of the batch taken whole, to the order of sums over parts, or to the bit where it is one part.
"""

from collections.abc import Mapping, MutableMapping, Sequence

import torch
from torch import Tensor

from fgcli.gradient.estimator import Estimate
from fgcli.gradient.guesser import Guesser
from fgcli.gradient.processes import Processes
from fgcli.gradient.randomness import DRAWN_AT_ONCE, StepRng


def parts_of(samples: int, size: int) -> list[slice]:
    """Rows of a batch that are taken together, at most `size` of `samples`, in parts that are alike.

    Where they may have DRAWN_AT_ONCE of them, each begins at a multiple of it, so that draws go on from part to part.
    """
    if samples <= size:
        return [slice(0, samples)]
    unit = DRAWN_AT_ONCE if size >= DRAWN_AT_ONCE else 1
    units = -(-samples // unit)
    number = -(-units // (size // unit))
    starts = [min(samples, unit * (units * part // number)) for part in range(number)]
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], samples], strict=True)]


FEW_ROWS = 0.25
"""Share of a table's rows up to which parts of its gradient are kept sparse."""


class SumOfParts:
    """The sum of the parts' estimates, each weighted by its share of the batch.

    Args:
        guessers: by site; their memories take what the guesses tell of the batch.
        rng: the streams of the step.
        parts: rows of each.
        gradients: what the sum is put in, by parameter.
    """

    def __init__(
        self, guessers: Mapping[str, Guesser], rng: StepRng, parts: Sequence[slice], gradients: dict[str, Tensor]
    ) -> None:
        self._guessers, self.rng = guessers, rng.in_parts(parts)
        self.gradients = gradients
        self.losses: list[Tensor] = []
        self.deltas: list[Tensor] = []
        self._means: dict[tuple[str, str], Tensor] = {}
        self._sparse: dict[str, list[Tensor]] = {}
        """Parts of a table's gradient, which take what the rows do that were looked up; the first is in `gradients`."""

    def add(self, gradients: Mapping[str, Tensor], share: float) -> None:
        """Add gradients of a part's mean loss, which are given away."""
        for name, gradient in gradients.items():
            there = self.gradients.get(name)
            if gradient.is_sparse and (there is None or there.is_sparse):
                some = self._sparse.setdefault(name, [])
                some.append(gradient * share if share < 1 else gradient)
                self.gradients[name] = some[0]
                if sum(one._nnz() for one in some) > FEW_ROWS * len(gradient):
                    self._make_dense(name)
                continue
            if there is not None and there.is_sparse:
                self._make_dense(name)
            if there is None:
                self.gradients[name] = gradient.mul_(share) if share < 1 else gradient
            else:
                self.gradients[name].add_(gradient, alpha=share)

    def end(
        self,
        losses: Tensor,
        share: float,
        delta: Tensor | None = None,
        statistics: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """The end of a part: its losses, δ where tangents were taken, and what the guesses tell of it, by site."""
        self.losses.append(losses)
        if delta is not None:
            self.deltas.append(delta.mul_(share))
        self.note(statistics or {}, share)

    def note(self, statistics: Mapping[str, Mapping[str, Tensor]], share: float) -> None:
        """Means over samples that the guesses tell, by site."""
        for site, means in statistics.items():
            for key, value in means.items():
                weighted = value if share == 1 else value * share
                self._means[site, key] = self._means[site, key] + weighted if (site, key) in self._means else weighted

    def estimate(self, losses: Tensor | None) -> Estimate:
        """Of all parts; `losses` in place of theirs, where samples see each other."""
        if losses is None:
            losses = self.losses[0] if len(self.losses) == 1 else torch.cat(self.losses)
        delta = torch.cat(self.deltas) if self.deltas else None
        self._make_all_dense()
        in_order = dict(reversed(self.gradients.items()))  # as the forward has them: the last sites come first above
        return Estimate(losses, in_order, delta)

    def finish(self, processes: Processes, more: MutableMapping[str, Tensor]) -> None:
        """After the last part: add up over the processes, `more` too; the guesses' memories take their means."""
        if processes.size > 1:
            self._make_all_dense()
        processes.add(self.gradients, self._means, more, told=[*self.losses, *self.deltas])
        for (site, key), mean in self._means.items():
            self._guessers[site].memory[key] = mean

    def _make_all_dense(self) -> None:
        for name in list(self._sparse):
            self._make_dense(name)

    def _make_dense(self, name: str) -> None:
        first, *rest = self._sparse.pop(name)
        dense = self.gradients[name] = first.to_dense()
        for one in rest:
            dense.add_(one)
