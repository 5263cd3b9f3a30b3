"""The spectral norm and the k-th singular value, by the implicitly restarted Lanczos method (Calvetti et al., 1994)."""

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor


def relative_step(singular: Tensor, k: int) -> float:
    """Midway between σ_k and σ_{k+1}, over σ_1: where a step belongs that keeps k singular values and no more.

    `singular`: the largest of a matrix, in descending order; never empty. Those that the matrix does not have are 0, so
    that of k >= rank all are kept; 0 for the zero matrix.
    """
    largest = float(singular[0])
    if largest == 0:
        return 0.0
    around = [float(singular[i]) if i < len(singular) else 0.0 for i in (k - 1, k)]
    return sum(around) / 2 / largest


def leading_singular(weight: Tensor, k: int) -> Tensor:
    """The min(k, m, n) largest singular values of weight [m, n], descending, computed in float64 on the CPU.

    Exact to rounding where σ_k is a fair part of σ_1; one below 1e-8 σ_1 is lost in rounding, since the iteration
    is on WᵀW. The start vector is fixed, so the same matrix gives the same bits. Raises ValueError for values that are
    not finite.
    """
    matrix = weight.detach().cpu().double()  # in this order: MPS has no float64
    if not torch.isfinite(matrix).all():
        raise ValueError("weight holds values that are not finite")
    scale = float(matrix.abs().max())
    if scale == 0.0:
        return torch.zeros(min(k, *matrix.shape), dtype=torch.float64)
    # Scaled, because ARPACK works on AᵀA, whose entries would under- or overflow for extreme weights.
    return _largest(matrix / scale, k) * scale


def _largest(matrix: Tensor, k: int) -> Tensor:
    smallest = min(matrix.shape)
    # 4k Lanczos vectors instead of ARPACK's 2k + 1: a quarter less time at 2,048, the same below 1,024.
    basis = max(4 * k, 20)
    if basis >= smallest:  # nothing left to gain from a subspace, and ARPACK refuses k = smallest
        return torch.linalg.svdvals(matrix)[:k]
    # Fixed, so that the same matrix gives the same bits; random, so that no singular vector is orthogonal to it.
    start = np.random.default_rng(0).standard_normal(smallest)
    values = svds(matrix.numpy(), k=k, v0=start, ncv=basis, solver="arpack", return_singular_vectors=False)
    return torch.from_numpy(np.sort(np.asarray(values))[::-1].copy())
