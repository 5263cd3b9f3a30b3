"""Leading eigenvectors of a symmetric operator, by the thick-restart Lanczos method (Wu and Simon, 2000).

In place of ARPACK, whose extraction of the vectors takes more memory than its Lanczos basis: here the basis is all
there is, max(2k, 20) + 1 vectors.
"""

from collections.abc import Callable

import torch
from torch import Tensor

TOLERANCE = 1e-5  # of the residual, relative to the largest |eigenvalue|: what float32 products allow
RESTARTS = 300
BLOCK = 2**16  # coordinates that are rotated at a time


def leading_eigenvectors(
    product: Callable[[Tensor], Tensor], k: int, start: Tensor, *, restarts: int = RESTARTS
) -> tuple[Tensor, Tensor]:
    """The k largest eigenvalues [k], descending, in float64, and orthonormal eigenvectors [n, k] in start's dtype.

    product: v [n] -> H v, both with the dtype and device of `start` [n], the first Lanczos vector; it should have parts
    of all the vectors sought, as a random one has. Eigenvalues are found to TOLERANCE or better, eigenvectors to that
    over the gap; what has not converged after `restarts` is returned as it is. k is from 1 to n.
    """
    n = len(start)
    m = min(max(2 * k, 20), n)
    basis = start.new_zeros(m + 1, n)
    basis[0] = start / start.norm()
    projected = torch.zeros(m, m, dtype=torch.float64)
    kept, norm = 0, 0.0
    while True:
        for j in range(kept, m):
            coefficients, norm = _extend(basis, j, product(basis[j]))
            projected[: j + 1, j] = projected[j, : j + 1] = coefficients
        values, vectors = torch.linalg.eigh(projected)
        values, vectors = values.flip(0), vectors.flip(1)
        residuals = norm * vectors[-1, :k].abs()
        done = m == n or restarts == 0 or bool((residuals <= TOLERANCE * values.abs().max()).all())
        kept = k if done else k + (m - k) // 2
        rotation = vectors[:, :kept].T.to(basis)
        for part in basis[:m].split(BLOCK, dim=1):  # in place
            part[:kept] = rotation @ part
        if done:
            return values[:k], basis[:k].T
        restarts -= 1
        basis[kept] = basis[m]
        projected = torch.zeros_like(projected)
        projected[:kept, :kept] = values[:kept].diag()


def _extend(basis: Tensor, j: int, image: Tensor) -> tuple[Tensor, float]:
    """basis[j + 1] from H basis[j]: its coefficients [j + 1] in the vectors so far, and the norm of the rest."""
    before = basis[: j + 1]
    size = float(image.norm())
    coefficients = before @ image
    rest = image - coefficients @ before
    again = before @ rest  # twice is enough
    rest -= again @ before
    norm = float(rest.norm())
    if norm <= 8 * torch.finfo(basis.dtype).eps * size or norm == 0:  # an invariant subspace: go on in any direction
        norm, rest = 0.0, _orthogonal_to(before)
    basis[j + 1] = rest / rest.norm().clamp_min(torch.finfo(basis.dtype).tiny)
    return (coefficients + again).cpu().double(), norm


def _orthogonal_to(before: Tensor) -> Tensor:
    """A vector [n] orthogonal to the rows of `before` [j, n]; 0 where they span the space."""
    rest = torch.zeros_like(before[0])
    if before.shape[0] < before.shape[1]:
        generator = torch.Generator().manual_seed(before.shape[0])
        rest = torch.randn(before.shape[1], generator=generator, dtype=torch.float64).to(before)
        for _ in range(2):
            rest = rest - (before @ rest) @ before
    return rest
