"""What `memory` decides: how many samples are taken together, and whether what a pass saw is stored or made again.

auto     what holds no more than backpropagation does: the batch at once and stored, or by two passes that store nothing
         of a layer; where W̃ is of the cut network, and with feedback, one pass over each part of the batch
replay   no more than inference does: those two passes, or the one, over parts of as few samples as that takes
store    the batch at once

Parts of a batch have its noise, Dropout's and the guesses', and its loss: the estimate is that of the batch at once, to
the order of sums. In one thing they differ: what a solver makes once of the first samples that it sees
(fgcli.methods.orthogonal.mean) is of the first part's.

What each holds is seen of two and of three samples (fgcli.gradient.held), not guessed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.held import Growth, growth
from fgcli.gradient.nested import leaves
from fgcli.gradient.randomness import DRAWN_AT_ONCE
from fgcli.gradient.uses import call

Policy = Literal["auto", "store", "replay"]

FLOOR = {"auto": 2**21, "replay": 2**16}
"""Numbers that all sites give for a batch (for auto 8 MiB in float32) up to which it is taken at once: parts would take
longer, and the process hold hardly less."""
ROWS = 512
"""Samples of a part at most, with memory=replay: no more are faster."""
FEW = 4
"""Samples that a batch has to have, to be looked at."""
STATE = 5_056
"""Bytes of the state of a random stream."""
UNSEEN = 1.05
"""Times what a part was seen to hold: kernels take memory of their own, which is not seen."""
NEAR = 1.1
"""Times what single samples hold: no smaller parts are taken to come nearer to that."""


@dataclass(frozen=True)
class Plan:
    """How an estimate is made."""

    rows: int
    """Samples of a part at most."""
    replayed: bool = False
    """Whether a second pass makes the guesses again."""


@dataclass(frozen=True)
class Measured:
    """What was seen of a few samples."""

    ours: Growth
    """An estimate's own, with the batch at once."""
    limit: Growth
    """Backpropagation's, or inference's: what `ours` is to stay within."""
    gradients: int
    """Bytes of all gradients."""
    once: int
    """Bytes that are held for each sample of the whole batch while parts are taken."""
    drawn: int = 0
    """Bytes that parts of fewer than DRAWN_AT_ONCE samples draw, and let go of, for each sample of the whole batch."""
    states: int = 0
    """Bytes of what all parts have, however many samples there are: the states of random streams."""

    def rows(self, samples: int, *, gradients: bool) -> int:
        """Samples of a part of a batch; `gradients`: whether those are counted in the limit already."""
        limit = self.limit.most(samples) + (0 if gradients else self.gradients)

        # The sum over the parts before is there; of tables the rows that were looked up.
        summed = min(self.ours.handed(samples), self.gradients)

        def of_part(rows: int) -> int:
            each = self.once + (self.drawn if rows < DRAWN_AT_ONCE else 0)
            return int(UNSEEN * self.ours.most(rows, summed)) + each * samples + self.states

        limit = max(limit, NEAR * (of_part(1) - self.drawn * samples))
        if self.ours.most(samples) <= limit:
            return samples
        fewest, most = 1, samples
        while most - fewest > 1:
            middle = (fewest + most) // 2
            fewest, most = (middle, most) if of_part(middle) <= limit else (fewest, middle)
        return fewest


def measured(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    estimate: Callable[[int, dict[str, Tensor]], None],
    *,
    once: int,
    drawn: int,
    streams: int,
    inference: bool,
) -> Measured:
    """Look at what an estimate holds, and backpropagation, or inference.

    Args:
        model: the model. Its buffers and torch's generators are not as before afterwards.
        loss: of the model's outputs and the batch's targets.
        batch: the batch, whose first samples are taken.
        estimate: makes an estimate of so many of them, and puts the gradients there.
        once: bytes for each sample of the batch, beside the model's outputs, that all parts have.
        drawn: bytes a sample of the noise that small parts draw of the whole batch.
        streams: random streams that go on from part to part.
        inference: whether that is the limit.
    """
    trained = [one for one in model.parameters() if one.requires_grad]
    outputs: list[int] = []

    def other(samples: int, _: dict[str, Tensor]) -> None:
        some = batch.rows(slice(samples))
        with torch.set_grad_enabled(not inference):
            given = call(model, some.inputs)
            outputs.append(sum(one.nbytes for one in leaves(given)) // samples)
            if not inference:
                torch.autograd.grad(loss(given, some.targets).mean(), trained, allow_unused=True)

    ours = growth(estimate)
    return Measured(
        ours, growth(other), sum(one.nbytes for one in trained), once + max(outputs), drawn, STATE * streams
    )
