"""W̃⊥ from a space that is tracked for W and masked sample by sample: the solvers `ritz` and `shared`."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory, Needs
from fgcli.gradient.upstream import LinearUpstream
from fgcli.methods.options import OrthogonalOptions
from fgcli.spectra.dense import masked
from fgcli.spectra.masked import MaskedBasis
from fgcli.spectra.tracking import has_full_column_rank, image_of, leading_left_vectors

REFRESH = 10
"""Parameter updates between two power steps, by default."""


class OrthogonalTracked(GuessMethod):
    """y ~ N(0, projector onto a k-dimensional space within span(M_b R)), R = WᵀQ with Q tracked for W.

    With k = rank and W of full column rank, Im(W̃ᵀ) is the space of the active units, and y = M_b z needs no R.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k = options.k
        shared = options.solver == "shared"
        self.oversampling = 1 if shared else options.oversampling
        self.power_steps = 0 if shared else options.power_steps
        self.refresh = options.refresh or REFRESH

    def prepare(self, layer: Layer, memory: Memory) -> MaskedBasis | None:
        weight = layer.next_weight
        assert weight is not None
        if self._spans_active_units(weight, memory, due=layer.step % self.refresh == 0):
            return None
        return tracked_basis(layer, memory, capped(self.k, *weight.shape) * self.oversampling, self.refresh)

    def _spans_active_units(self, weight: Tensor, memory: Memory, *, due: bool) -> bool:
        """Whether k is the rank and W has full column rank, looked at whenever the tracked space would be."""
        if capped(self.k, *weight.shape) < weight.shape[1]:
            return False
        known = memory.get("full_rank")
        if known is None or due:
            known = memory["full_rank"] = torch.tensor(has_full_column_rank(weight))
        return bool(known)

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: MaskedBasis | None) -> LinearMap:
        k = capped(self.k, *upstream.weight.shape)
        if prepared is not None:
            return LinearMap(k, prepared.projection(upstream.slope, k, self.power_steps))
        return LinearMap(k, partial(masked, upstream.slope != 0))


def tracked_basis(layer: Layer, memory: Memory, r: int, refresh: int) -> MaskedBasis:
    """R = WᵀQ, Q [d_out, r] the tracked left singular vectors of W, which move on once in `refresh` updates."""
    weight, left = layer.next_weight, memory.get("left")
    assert weight is not None
    if left is None or layer.step % refresh == 0:
        left = memory["left"] = leading_left_vectors(weight, r, start=left)
    return MaskedBasis.of(image_of(weight, left))


def capped(k: int | str, *sizes: int) -> int:
    """k, at most the smallest of the sizes; `rank` is that."""
    largest = min(sizes)
    return largest if isinstance(k, str) else min(k, largest)
