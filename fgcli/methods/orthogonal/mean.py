"""W̃⊥ by one product a guess: the top-k space of all samples' W̃ together, whitened by their mean.

Q [d_out, k] follows the leading eigenvectors of C, the mean of W̃_bW̃_bᵀ over the batch, and
y_b = W̃_bᵀ Q (QᵀCQ)^{-1/2} z, z ~ N(0, I_k). It lies in Im(W̃_bᵀ), where g lies. Its covariance is a projector on average
over the samples, not for each: it is W̃⊥ where all samples have one W̃, and a sample of larger W̃ has a larger guess.
Where one s stands for all samples (a position embedding's), V [d_in, k] is followed in its place, and y = V z.
What it costs is W̃ᵀ's one product, in any network: Q is followed only once in `refresh` parameter updates. A look at C
takes 2k products: where W̃ is known by its products alone it is taken less often, and fewer make the first Q.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
from fgcli.methods.options import OrthogonalOptions
from fgcli.methods.orthogonal.krylov import batch_of, refuse_too_large
from fgcli.spectra.masked import MaskedBasis, leading_root
from fgcli.spectra.mean_space import mean_space, whitened_and_next
from fgcli.spectra.scaling import near_one
from fgcli.spectra.tracking import COLD_STEPS, image_of

BY_MATRIX, BY_PRODUCTS = 10, 50
"""Parameter updates between two looks at C, by default."""
COLD_LOOKS = 1
"""That the first Q takes where W̃ is known by its products alone."""
SAMPLES = 16
"""The first of a batch, which the very first Q is made of: where a batch is taken in parts, its first part has them."""


@dataclass
class Space:
    """Q and U = Q (QᵀCQ)^{-1/2} [d_out, k] of this update, once known, and whether a look at C is due."""

    left: Tensor | None
    whitened: Tensor | None
    due: bool


class OrthogonalMean(GuessMethod):
    """y_b = W̃_bᵀ U z, z ~ N(0, I_k)."""

    takes_products_alone = True
    first_samples = SAMPLES

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k, self._refresh = options.k, options.refresh

    def prepare(self, layer: Layer, memory: Memory) -> Space:
        refresh = self._refresh or (BY_PRODUCTS if layer.next_weight is None else BY_MATRIX)
        due = layer.step % refresh == 0
        if layer.shared:
            return Space(memory.get("right"), None, due)
        image, left = memory.get("image"), memory.get("left")
        if image is not None and left is not None:
            del memory["image"]
            memory["whitened"], memory["left"] = whitened_and_next(left, image)
        return Space(memory.get("left"), memory.get("whitened"), due)

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: Space) -> LinearMap:
        largest = min(layer.dim, upstream.output_dim)
        k = largest if isinstance(self.k, str) else min(self.k, largest)
        if layer.shared:
            return _of_batch(upstream, prepared, layer, k)
        samples = batch_of(layer)
        if not isinstance(upstream, LinearUpstream):
            refuse_too_large(layer, upstream, k)
        image = None
        if prepared.whitened is None or prepared.left is None or len(prepared.left) != upstream.output_dim:
            # The first update, or inputs of another size: its first part's is all's, and every part looks at C.
            prepared.due = True
            looks = COLD_STEPS if isinstance(upstream, LinearUpstream) else COLD_LOOKS
            few = partial(_mean_product, upstream, samples, SAMPLES)
            prepared.left = mean_space(few, layer.weight, upstream.output_dim, k, looks)
            image = few(prepared.left)
            prepared.whitened, _ = whitened_and_next(prepared.left, image)
        statistics = {}
        if prepared.due:
            if image is None or samples > SAMPLES:
                image = _mean_product(upstream, samples, samples, prepared.left)
            statistics = {"left": prepared.left, "image": image}
        whitened = prepared.whitened
        if isinstance(upstream, LinearUpstream):
            basis = MaskedBasis(image_of(upstream.weight, whitened), None)
            return LinearMap(k, partial(basis.combine, upstream.slope), statistics)

        def pulled(z: Tensor) -> Tensor:
            return upstream.apply_transpose(z @ whitened.T if z.dim() == 2 else whitened @ z)

        return LinearMap(k, pulled, statistics)


def _of_batch(upstream: UpstreamJacobian, prepared: Space, layer: Layer, k: int) -> LinearMap:
    """The guess where one s stands for all samples: V z, V [d_in, k] W̃'s leading right singular vectors.

    W̃ has as many rows as all samples have together: Q would take as often what one sample's does, and follow no more
    than the batch's own samples.
    """
    right, statistics = prepared.left, {}
    is_there = right is not None and right.shape == (layer.dim, k)
    if right is None or not is_there or prepared.due:

        def product(v: Tensor) -> Tensor:
            return torch.cat([upstream.apply_transpose(upstream.apply(one.unsqueeze(0))) for one in v.unbind(1)]).mT

        start = right if right is not None and is_there else mean_space(product, layer.weight, layer.dim, k, COLD_LOOKS)
        image = near_one(product(start))
        right = image @ leading_root((image.mT @ image).unsqueeze(0), k).squeeze(0)
        prepared.left, prepared.due = right, False
        statistics = {"right": right}
    space = right
    return LinearMap(k, lambda z: z @ space.mT if z.dim() == 2 else space @ z, statistics)


def _mean_product(upstream: UpstreamJacobian, batch: int, samples: int, q: Tensor) -> Tensor:
    """C Q [d_out, k] of the batch's first samples."""
    if isinstance(upstream, LinearUpstream):
        slope = upstream.slope[:samples]
        return upstream.weight @ (image_of(upstream.weight, q) * slope.square().mean(0).unsqueeze(1))
    # One column after the other: all of them, of every sample, would take k times what the guess itself does.
    columns = (column.expand(batch, -1) for column in q.unbind(1))
    return torch.stack([upstream.apply(upstream.apply_transpose(one))[:samples].mean(0) for one in columns], 1)
