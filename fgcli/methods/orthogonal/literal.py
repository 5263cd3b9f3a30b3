"""W̃⊥ as the paper has it, one singular value decomposition a sample, and its control W̃⊥-bottom."""

from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory, Needs
from fgcli.gradient.upstream import LinearUpstream
from fgcli.methods.options import OrthogonalBottomOptions, OrthogonalOptions
from fgcli.methods.orthogonal.tracked import capped
from fgcli.spectra.dense import right_singular_vectors, times
from fgcli.spectra.masked import MaskedBasis
from fgcli.spectra.tracking import random_block


class OrthogonalSVD(GuessMethod):
    """y = V_k z: N(0, projector onto the top-k right singular vectors of each sample's W̃)."""

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k = options.k

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: None) -> LinearMap:
        vectors, rank = right_singular_vectors(upstream.dense())
        k = capped(self.k, *upstream.weight.shape)
        kept = torch.arange(k, device=rank.device) < rank.unsqueeze(1)  # k is capped per sample at rank(W̃_b)
        basis = vectors[:, :, :k] * kept.unsqueeze(1)
        return LinearMap(k, partial(times, basis))


class OrthogonalBottom(GuessMethod):
    """y = V_k z with the k smallest singular values of the reduced SVD, zeros among them. A control, not a method.

    Where at least k of them are 0 because so many units are inactive, which vectors belong to them is nobody's choice:
    any k-dimensional space of inactive units will do, and is found without an SVD.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: OrthogonalBottomOptions) -> None:
        self.k = options.k

    def prepare(self, layer: Layer, memory: Memory) -> MaskedBasis:
        weight = layer.next_weight
        assert weight is not None
        return MaskedBasis.of(random_block(weight.shape[1], capped(self.k, *weight.shape), weight))

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: MaskedBasis) -> LinearMap:
        k = capped(self.k, *upstream.weight.shape)
        inactive = upstream.slope == 0
        zeros = min(upstream.weight.shape) - (~inactive).sum(1)  # at least so many singular values are 0
        easy = zeros >= k
        of_easy = prepared.projection(inactive[easy].to(upstream.slope.dtype)) if bool(easy.any()) else None
        hard = None
        if not bool(easy.all()):
            rest = LinearUpstream(upstream.weight, upstream.slope[~easy])
            hard = right_singular_vectors(rest.dense())[0][:, :, -k:]

        def bottom(z: Tensor) -> Tensor:
            y = z.new_empty(len(z), inactive.shape[1], *z.shape[2:])
            if of_easy is not None:
                y[easy] = of_easy(z[easy])
            if hard is not None:
                y[~easy] = times(hard, z[~easy])
            return y

        return LinearMap(k, bottom)
