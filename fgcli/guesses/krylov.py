"""W̃⊥ in any network: each sample's Krylov space of W̃, from products with W̃ and W̃ᵀ alone.

r = oversampling · k vectors R_b = W̃_bᵀQ_b a sample come from as many blocks of k as `oversampling` says. All samples
start from one block, which follows the space that most of W̃'s energy is in from step to step: weights change little in
a step, and samples share them.
"""

from typing import ClassVar

from torch import Tensor

from fgcli.gradient.guess import Needs
from fgcli.gradient.sites import Site
from fgcli.guesses.options import OrthogonalOptions
from fgcli.spectra.krylov import followed, krylov_images, mean_image, random_block, ritz_vectors
from fgcli.spectra.scaling import near_one


class OrthogonalKrylov:
    """y = V_k z: V_k the top-k Ritz vectors of each sample's Krylov space, which lies in Im(W̃ᵀ)."""

    needs: ClassVar[Needs] = "operator"

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k, self.oversampling = options.k, options.oversampling

    def prepare(self, site: Site) -> Tensor:
        return start_block(site, site.dim if isinstance(self.k, str) else min(self.k, site.dim))

    def noise_dim(self, site: Site, prepared: Tensor) -> int:
        return min(prepared.shape[1], site.upstream.output_dim)

    def map(self, site: Site, prepared: Tensor, z: Tensor) -> Tensor:
        k = z.shape[1]
        images = krylov_images(site.upstream, prepared, self.oversampling * k, len(z))
        site.memory["image"] = mean_image(images, prepared)
        images = near_one(images)
        vectors = ritz_vectors(images, k)
        return (vectors @ z.unsqueeze(-1)).squeeze(-1) if z.dim() == 2 else vectors @ z


def start_block(site: Site, k: int) -> Tensor:
    """X [d, k], where a step's iterations start: afresh where the input's size is another than in the last step."""
    image = site.warm_start("image")
    if image is None or image.shape != (site.dim, k):
        return random_block(site.dim, k, site.module.weight)
    return followed(image)
