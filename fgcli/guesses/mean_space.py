"""W̃⊥ by one product a guess: the top-k space of all samples' W̃ together, whitened by their mean.

Q [d_out, k] follows the leading eigenvectors of C, the mean of W̃_bW̃_bᵀ over the batch, and
y_b = W̃_bᵀ Q (QᵀCQ)^{-1/2} z, z ~ N(0, I_k). It lies in Im(W̃_bᵀ), where g lies. Its covariance is a projector on average
over the samples, not for each: it is W̃⊥ where all samples have one W̃, and a sample of larger W̃ has a larger guess.
What it costs is W̃ᵀ's one product, in any network: Q is followed only once in `refresh` parameter updates.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from fgcli.gradient.guess import Needs
from fgcli.gradient.sites import Site
from fgcli.guesses.options import OrthogonalOptions
from fgcli.spectra.masked import MaskedBasis
from fgcli.spectra.mean_space import mean_space, whitened_and_next
from fgcli.spectra.tracking import image_of


@dataclass
class Space:
    """U = Q (QᵀCQ)^{-1/2} [d_out, k] for this step, once known, and the Q that is to come, if it is due."""

    whitened: Tensor | None
    due: Tensor | None


class OrthogonalMean:
    """y_b = W̃_bᵀ U z, z ~ N(0, I_k)."""

    needs: ClassVar[Needs] = "operator"
    whole_batch: ClassVar[bool] = True

    def __init__(self, options: OrthogonalOptions) -> None:
        self.k, self.refresh = options.k, options.refresh

    def prepare(self, site: Site) -> Space:
        due = site.memory.get("left") if site.step % self.refresh == 0 else None
        return Space(site.memory.get("whitened"), due)

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
        """Once a step at most, so that further maps of the step are the same: what is found is the next step's."""
        if prepared.whitened is not None and prepared.due is None:
            return
        left = prepared.due
        if left is None:  # the first step has no other
            left = mean_space(lambda q: _mean_product(site, q, len(z)), z, site.upstream.output_dim, z.shape[1])
        whitened, following = whitened_and_next(lambda q: _mean_product(site, q, len(z)), left)
        site.memory.update(whitened=whitened, left=following)
        prepared.due = None
        if prepared.whitened is None:
            prepared.whitened = whitened


def _mean_product(site: Site, q: Tensor, batch: int) -> Tensor:
    """C Q [d_out, k]."""
    if site.next_layer is None:
        columns = q.expand(batch, -1, -1)
        return site.upstream.apply(site.upstream.apply_transpose(columns)).mean(0)
    slope, weight = site.linear_upstream.slope, site.next_weight
    return weight @ (image_of(weight, q) * slope.square().mean(0).unsqueeze(1))
