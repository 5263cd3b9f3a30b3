"""W̃⊥ by one product a guess: the top-k space of all samples' W̃ together, whitened by their mean.

U [d_out, k] is a basis of the leading eigenvectors of C, the mean of W̃_bW̃_bᵀ over the batch, with UᵀCU = I, and
y_b = W̃_bᵀ U z, z ~ N(0, I_k). It lies in Im(W̃_bᵀ), where g lies. Its covariance is a projector on average over the
samples, not for each: it is W̃⊥ where all samples have one W̃, and a sample of larger W̃ has a larger guess. Where one s
stands for all samples (a position embedding's), V [d_in, k] is followed in its place, and y = V z.
What it costs is W̃ᵀ's one product, in any network: U is followed only once in `refresh` parameter updates. A look at C
takes 2k products: where W̃ is known by its products alone it is taken less often, and one look at few samples makes the
first U; the second update looks at the whole batch. What a look tells of C is less than C (fgcli.spectra.mean_space),
and the guess too long by as much: 3 to 18 % after the first look, 2 to 5 % after the second, in BERT.
On a residual stream W̃ has rows for all later layers. U is of the nearest alone, of as many as it takes to have a row
for each entry of s: the guess lies in Im(W̃_bᵀ) all the same, and its time does not grow with the depth.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
from fgcli.methods.options import OrthogonalOptions
from fgcli.methods.orthogonal.krylov import batch_of, refuse_too_large
from fgcli.methods.orthogonal.tracked import capped
from fgcli.spectra.krylov import followed
from fgcli.spectra.masked import MaskedBasis, leading_root
from fgcli.spectra.mean_space import mean_space, whitened
from fgcli.spectra.scaling import near_one
from fgcli.spectra.tracking import COLD_STEPS, image_of

BY_MATRIX, BY_PRODUCTS = 10, 50
"""Parameter updates between two looks at C, by default."""
COLD_LOOKS = 0
"""Before the one that makes the first U, where W̃ is known by its products alone."""
KEPT = torch.bfloat16
"""What U is kept as: any basis near it is as good, and this takes half of the bytes."""
SAMPLES = 16
"""The first of a batch, which the very first U is made of: where a batch is taken in parts, its first part has them."""


@dataclass
class Space:
    """U [d_out, k] (or V [d_in, k]) of this update, once known; whether a look at C is due; and whether U is new."""

    basis: Tensor | None
    due: bool
    new: bool = False


class _ProductsAlone(GuessMethod):
    """Holds what a product with W̃ and one with its transpose hold.

    It stands in for a method whose first step takes many of them.

    Args:
        near: whether the method takes the nearest alone.
    """

    reads_output = False

    def __init__(self, *, near: bool) -> None:
        self.near = near

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        upstream = upstream.nearest(layer.dim) if self.near else upstream

        def pulled(z: Tensor) -> Tensor:
            y = upstream.apply_transpose(z)
            upstream.apply(y)
            return y

        return LinearMap(upstream.output_dim, pulled)


class OrthogonalMean(GuessMethod):
    """y_b = W̃_bᵀ U z, z ~ N(0, I_k)."""

    reads_output = False
    first_samples = SAMPLES

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k, self._refresh = options.k, options.refresh
        self.in_trial = _ProductsAlone(near=not isinstance(self.k, str))

    def prepare(self, layer: Layer, memory: Memory) -> Space:
        refresh = self._refresh or (BY_PRODUCTS if layer.next_weight is None else BY_MATRIX)
        basis = memory.tensors.get("basis")
        if "image" in memory and basis is not None:
            basis = whitened(followed(memory["basis"]), memory.pop("image"))
        if basis is not None:
            basis = memory["basis"] = basis.to(layer.weight.device, KEPT)
        is_first = memory.pop("few", None) is not None
        return Space(basis, is_first or layer.step % refresh == 0)

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: Space) -> LinearMap:
        if not isinstance(self.k, str):
            upstream = upstream.nearest(layer.dim)
        k = capped(self.k, layer.dim, upstream.output_dim)
        if layer.shared:
            return _of_batch(upstream, prepared, layer, k)
        samples, statistics = batch_of(layer), {}
        if not isinstance(upstream, LinearUpstream):
            refuse_too_large(layer, upstream, k)
        if prepared.basis is None or len(prepared.basis) != upstream.output_dim:
            # The first update, or inputs of another size: what the first part has made is all parts'.
            looks = COLD_STEPS if isinstance(upstream, LinearUpstream) else COLD_LOOKS
            few = partial(_mean_product, upstream, samples, SAMPLES)
            start = mean_space(few, layer.weight, upstream.output_dim, k, looks)
            prepared.basis, prepared.new = whitened(start, few(start)).to(KEPT), True
        basis = prepared.basis
        if prepared.new:
            statistics = {"basis": basis.to(layer.weight), "few": basis.new_ones(1)}
        elif prepared.due:
            statistics = {"image": _mean_product(upstream, samples, samples, followed(basis.to(layer.weight)))}
        if isinstance(upstream, LinearUpstream):
            masked = MaskedBasis(image_of(upstream.weight, basis.to(upstream.weight)), None)
            return LinearMap(k, partial(masked.combine, upstream.slope), statistics)

        def pulled(z: Tensor) -> Tensor:
            return upstream.apply_transpose(z @ basis.to(z).T if z.dim() == 2 else basis.to(z) @ z)

        return LinearMap(k, pulled, statistics)


def _of_batch(upstream: UpstreamJacobian, prepared: Space, layer: Layer, k: int) -> LinearMap:
    """The guess where one s stands for all samples: V z, V [d_in, k] W̃'s leading right singular vectors.

    W̃ has as many rows as all samples have together: Q would take as often what one sample's does, and follow no more
    than the batch's own samples.
    """
    basis, statistics = prepared.basis, {}
    if basis is not None and basis.shape != (layer.dim, k):
        basis = None
    if basis is None or prepared.due:

        def product(v: Tensor) -> Tensor:
            return torch.cat([upstream.apply_transpose(upstream.apply(one.unsqueeze(0))) for one in v.unbind(1)]).mT

        start = mean_space(product, layer.weight, layer.dim, k, 1) if basis is None else basis.to(layer.weight)
        image = near_one(product(start))
        basis = prepared.basis = image @ leading_root((image.mT @ image).unsqueeze(0), k).squeeze(0)
        prepared.due, statistics = False, {"basis": basis}
    right = basis
    return LinearMap(k, lambda z: z @ right.to(z).mT if z.dim() == 2 else right.to(z) @ z, statistics)


def _mean_product(upstream: UpstreamJacobian, batch: int, samples: int, q: Tensor) -> Tensor:
    """C Q [d_out, k] of the batch's first samples."""
    if isinstance(upstream, LinearUpstream):
        slope = upstream.slope[:samples]
        return upstream.weight @ (image_of(upstream.weight, q) * slope.square().mean(0).unsqueeze(1))
    # One column after the other: all of them, of every sample, would take k times what the guess itself does.
    columns = (column.expand(batch, -1) for column in q.unbind(1))
    return torch.stack([upstream.apply(upstream.apply_transpose(one))[:samples].mean(0) for one in columns], 1)
