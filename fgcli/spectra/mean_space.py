"""The leading subspace of the mean of A_b A_bᵀ over a batch of matrices, followed by orthogonal iteration."""

from collections.abc import Callable

from torch import Tensor

from fgcli.spectra.masked import leading_root
from fgcli.spectra.scaling import near_one
from fgcli.spectra.tracking import COLD_STEPS, orthonormal, random_block

Product = Callable[[Tensor], Tensor]
"""C V [m, k] of V [m, k], C [m, m] the mean of A_b A_bᵀ."""


def mean_space(product: Product, like: Tensor, m: int, k: int, steps: int = COLD_STEPS) -> Tensor:
    """Q [m, k] with orthonormal columns, near C's k leading eigenvectors: by steps from a fixed random block."""
    q = random_block(m, k, like)
    for _ in range(steps):
        q = orthonormal(near_one(product(q)))
    return q


def whitened_and_next(q: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Q (QᵀCQ)^{-1/2} [m, k], and an orthonormal basis of the image C Q [m, k], one orthogonal iteration on.

    With U the first, the mean of (A_bᵀU)ᵀ(A_bᵀU) is I_k, or the projector onto QᵀCQ's range where that is singular.
    The root is the symmetric one, which is invariant to the signs of eigenvectors.
    """
    gram = q.mT @ image
    root = leading_root(((gram + gram.mT) / 2).unsqueeze(0), q.shape[1]).squeeze(0)
    return q @ root, orthonormal(near_one(image))
