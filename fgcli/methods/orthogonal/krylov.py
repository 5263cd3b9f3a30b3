"""W̃⊥ in any network: each sample's Krylov space of W̃, from products with W̃ and W̃ᵀ alone.

r = oversampling · k vectors R_b = W̃_bᵀQ_b a sample come from as many blocks of k as `oversampling` says. All samples
start from one block, which follows the space that most of W̃'s energy is in from step to step: weights change little in
a step, and samples share them.
"""

from collections.abc import Callable
from functools import cache, partial

from torch import Tensor

from fgcli.devices import machine_memory
from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory
from fgcli.gradient.upstream import UpstreamJacobian
from fgcli.methods.options import OrthogonalOptions
from fgcli.methods.orthogonal.tracked import capped
from fgcli.spectra.dense import times
from fgcli.spectra.krylov import followed, krylov_images, mean_image, ritz_vectors
from fgcli.spectra.scaling import near_one
from fgcli.spectra.tracking import random_block


class OrthogonalKrylov(GuessMethod):
    """y = V_k z: V_k the top-k Ritz vectors of each sample's Krylov space, which lies in Im(W̃ᵀ)."""

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k, self.oversampling = options.k, options.oversampling

    def prepare(self, layer: Layer, memory: Memory) -> Callable[[], Tensor]:
        # Made when it is asked for: of the whole rank it is itself too large where the guess space is refused.
        return cache(partial(start_block, layer, memory, capped(self.k, layer.dim)))

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: Callable[[], Tensor]) -> LinearMap:
        k = capped(self.k, layer.dim, upstream.output_dim)
        refuse_too_large(layer, upstream, self.oversampling * k, ", or use solver=mean")
        start = prepared()
        images = krylov_images(upstream, start, self.oversampling * k, batch_of(layer))
        vectors = ritz_vectors(near_one(images), k)
        return LinearMap(k, partial(times, vectors), {"image": mean_image(images, start)})


def start_block(layer: Layer, memory: Memory, k: int) -> Tensor:
    """X [d, k], where a step's iterations start: afresh where the input's size is another than in the last step."""
    image = memory.get("image")
    if image is None or image.shape != (layer.dim, k):
        return random_block(layer.dim, k, layer.weight)
    return followed(image)


def refuse_too_large(layer: Layer, upstream: UpstreamJacobian, r: int, instead: str = "") -> None:
    """MemoryError where r vectors a sample, in both spaces of W̃, take more than the machine's memory."""
    numbers = batch_of(layer) * min(r, upstream.output_dim) * (upstream.input_dim + upstream.output_dim)
    needed, there = 2 * numbers * layer.weight.element_size(), machine_memory()
    if there is not None and needed > there:
        raise MemoryError(
            f"the guess space of {batch_of(layer)} samples, {r} vectors each, takes {needed / 2**30:,.0f} GiB, and "
            f"this machine has {there / 2**30:,.0f}: set a smaller k or batch{instead}"
        )


def batch_of(layer: Layer) -> int:
    """The number of samples of the present batch."""
    assert layer.output is not None
    return len(layer.output)
