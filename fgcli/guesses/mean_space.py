"""W̃⊥ by one product a guess: the top-k space of all samples' W̃ together, whitened by their mean.

Q [d_out, k] follows the leading eigenvectors of C, the mean of W̃_bW̃_bᵀ over the batch, and
y_b = W̃_bᵀ Q (QᵀCQ)^{-1/2} z, z ~ N(0, I_k). It lies in Im(W̃_bᵀ), where g lies. Its covariance is a projector on average
over the samples, not for each: it is W̃⊥ where all samples have one W̃, and a sample of larger W̃ has a larger guess.
What it costs is W̃ᵀ's one product, in any network: Q is followed only once in `refresh` parameter updates.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from fgcli.gradient.guess import Needs
from fgcli.gradient.sites import Site
from fgcli.guesses.options import OrthogonalOptions
from fgcli.spectra.masked import MaskedBasis
from fgcli.spectra.mean_space import mean_space, whitened_and_next
from fgcli.spectra.tracking import image_of

SAMPLES = 16
"""The first of a batch, which the very first Q is made of: where a batch is taken in parts, its first part has them."""


@dataclass
class Space:
    """Q and U = Q (QᵀCQ)^{-1/2} [d_out, k] of this step, once known, and whether a look at C is due."""

    left: Tensor | None
    whitened: Tensor | None
    due: bool


class OrthogonalMean:
    """y_b = W̃_bᵀ U z, z ~ N(0, I_k)."""

    needs: ClassVar[Needs] = "operator"

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k, self.refresh = options.k, options.refresh

    def prepare(self, site: Site) -> Space:
        image, left = site.warm_start("image"), site.warm_start("left")
        if image is not None and left is not None:
            del site.memory["image"]
            site.memory["whitened"], site.memory["left"] = whitened_and_next(left, image)
        return Space(site.warm_start("left"), site.warm_start("whitened"), site.step % self.refresh == 0)

    def noise_dim(self, site: Site, prepared: Space) -> int:
        largest = min(site.dim, site.upstream.output_dim)
        return largest if isinstance(self.k, str) else min(self.k, largest)

    def map(self, site: Site, prepared: Space, z: Tensor) -> Tensor:
        self._follow(site, prepared, z)
        assert prepared.whitened is not None
        if site.next_layer is None:
            return site.upstream.apply_transpose(z @ prepared.whitened.T if z.dim() == 2 else prepared.whitened @ z)
        image = image_of(site.next_weight, prepared.whitened)
        return MaskedBasis(image, None).combine(site.linear_upstream.slope, z)

    def _follow(self, site: Site, prepared: Space, z: Tensor) -> None:
        """C Q of the batch, at a step where it is due, for the next step: further maps of this one are the same."""
        if prepared.whitened is None:  # the first step has no other
            few = partial(_mean_product, site, len(z), SAMPLES)
            prepared.left = mean_space(few, z, site.upstream.output_dim, z.shape[1])
            prepared.whitened, _ = whitened_and_next(prepared.left, few(prepared.left))
            prepared.due = True
        if prepared.due and prepared.left is not None and "image" not in site.memory:
            site.memory.update(left=prepared.left, image=_mean_product(site, len(z), len(z), prepared.left))


def _mean_product(site: Site, batch: int, samples: int, q: Tensor) -> Tensor:
    """C Q [d_out, k] of the batch's first samples."""
    if site.next_layer is None:
        columns = q.expand(batch, -1, -1)
        return site.upstream.apply(site.upstream.apply_transpose(columns))[:samples].mean(0)
    slope, weight = site.linear_upstream.slope[:samples], site.next_weight
    return weight @ (image_of(weight, q) * slope.square().mean(0).unsqueeze(1))
