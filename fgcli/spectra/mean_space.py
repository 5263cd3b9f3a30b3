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


def whitened(q: Tensor, image: Tensor) -> Tensor:
    """U [m, k] = Q' (Q'ᵀĈQ')^{-1/2}: Q' an orthonormal basis of the image C Q, Ĉ what that image tells of C.

    Ĉ = CQ (QᵀCQ)⁺ QᵀC (Nyström), which is C itself where the range of Q holds C's, and nowhere above it. Then the mean
    of (A_bᵀU)ᵀ(A_bᵀU) is I_k, or the projector onto Ĉ's range in it, up to what Ĉ lacks. The root is the symmetric one,
    which is invariant to the signs of eigenvectors.
    """
    k = q.shape[1]
    basis = orthonormal(near_one(image))
    half = basis.mT @ image @ _root(q.mT @ image, k)
    return basis @ _root(half @ half.mT, k)


def _root(gram: Tensor, k: int) -> Tensor:
    return leading_root(((gram + gram.mT) / 2).unsqueeze(0), k).squeeze(0)
