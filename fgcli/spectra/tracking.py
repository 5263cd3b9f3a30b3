"""The leading singular subspace of one matrix that changes slowly, followed by warm power steps."""

import torch
from torch import Tensor

from fgcli.spectra.scaling import double, near_one

COLD_STEPS = 8


def leading_left_vectors(matrix: Tensor, r: int, start: Tensor | None = None) -> Tensor:
    """Q [m, r] with orthonormal columns, near the r leading left singular vectors of matrix [m, n], in their order.

    From `start` (an earlier Q) one block power step with Rayleigh–Ritz; without it COLD_STEPS from a fixed random
    block. r is capped at min(m, n); with r = m the space is whole and exact. RᵀR for R = matrixᵀQ is diagonal,
    descending: its entries are the Ritz values, below the true σ² by what the power steps have not yet found.
    ValueError for a matrix that is not finite.
    """
    r = min(r, *matrix.shape)
    steps = 1 if start is not None else COLD_STEPS
    q = random_block(matrix.shape[0], r, matrix) if start is None else start
    for _ in range(steps):
        q = orthonormal(near_one(matrix @ near_one(image_of(matrix, q))))
    image = near_one(image_of(matrix, q))
    if not bool(image.isfinite().all()):
        raise ValueError("the weight holds values that are not finite")
    _, rotation = torch.linalg.eigh(double(image.T @ image))
    return q @ rotation.flip(1).to(q)


def random_block(n: int, b: int, like: Tensor) -> Tensor:
    """A fixed Gaussian X [n, b] in the dtype and on the device of `like`: where a first iteration starts."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, b, generator=generator, dtype=torch.float64).to(like)


def image_of(matrix: Tensor, q: Tensor) -> Tensor:
    """R = matrixᵀQ [n, r], as the transpose of Qᵀmatrix: for few columns that takes a quarter of the time."""
    return (q.T @ matrix).T


def orthonormal(columns: Tensor) -> Tensor:
    """Columns [..., m, r] made orthonormal; on the CPU where the device has no QR (MPS)."""
    if columns.device.type == "mps":
        return torch.linalg.qr(columns.cpu()).Q.to(columns)
    return torch.linalg.qr(columns).Q


def has_full_column_rank(matrix: Tensor) -> bool:
    """Whether the columns of matrix [m, n] are independent to working precision.

    Cholesky of the Gram matrix in float64: a pivot of (max(m, n) eps)² of the largest diagonal entry counts as zero.
    """
    m, n = matrix.shape
    if n > m:
        return False
    wide = near_one(double(matrix.detach()))
    gram = wide.T @ wide
    factor, info = torch.linalg.cholesky_ex(gram)
    smallest = factor.diagonal().square().amin()
    threshold = max((max(m, n) * torch.finfo(matrix.dtype).eps) ** 2, 64 * n * torch.finfo(torch.float64).eps)
    return bool((info == 0) & (smallest > threshold * gram.diagonal().amax()))
