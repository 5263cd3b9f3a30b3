"""Subspaces of M_b B for one basis B and a batch of diagonals M_b, without anything of size batch × d × d.

All samples share the matrix; only the diagonal differs. The Gram matrix BᵀM_b²B of every sample is then one product
of the squared diagonals with the products of B's columns, which depend on B alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

CHUNK = 2**22  # entries of the Gram matrices held at a time


@dataclass(frozen=True)
class MaskedBasis:
    """A basis B [d, r], not necessarily orthonormal, ready to be masked sample by sample."""

    basis: Tensor
    products: Tensor
    """[d, r(r+1)/2]: products of pairs of columns."""

    @classmethod
    def of(cls, basis: Tensor) -> "MaskedBasis":
        i, j, _ = _pairs(basis.shape[1], basis.device)
        return cls(basis, basis.index_select(1, i).mul_(basis.index_select(1, j)))

    def in_chunks(self, function: Callable[[Tensor, Tensor], Tensor], diagonal: Tensor, z: Tensor) -> Tensor:
        """function(diagonals [batch, d], noise [batch, ...]), in parts whose Gram matrices fit into CHUNK entries."""
        size = max(1, CHUNK // self.basis.shape[1] ** 2)
        if len(z) <= size:
            return function(diagonal, z)
        parts = zip(diagonal.split(size), z.split(size), strict=True)
        return torch.cat([function(*part) for part in parts])

    def gram(self, diagonal: Tensor) -> Tensor:
        """BᵀM_b²B: diagonals [batch, d] -> [batch, r, r]."""
        r = self.basis.shape[1]
        _, _, position = _pairs(r, diagonal.device)
        return ((diagonal * diagonal) @ self.products).index_select(1, position).unflatten(1, (r, r))

    def combine(self, diagonal: Tensor, coordinates: Tensor) -> Tensor:
        """M_b B u_b: diagonals [batch, d], coordinates [batch, r] or [batch, r, columns] -> [batch, d(, columns)]."""
        if coordinates.dim() == 2:
            return (coordinates @ self.basis.T).mul_(diagonal)
        return (self.basis @ coordinates).mul_(diagonal.unsqueeze(-1))


@lru_cache(maxsize=16)
def _pairs(r: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the upper triangle of an r × r matrix, and where each entry stands in that list."""
    i, j = torch.triu_indices(r, r, device=device)
    position = torch.empty(r, r, dtype=torch.long, device=device)
    position[i, j] = position[j, i] = torch.arange(len(i), device=device)
    return i, j, position.flatten()


def whiten(gram: Tensor, z: Tensor) -> Tensor:
    """u = T z with T Tᵀ = gram⁺, so that B u has the covariance of a projector if gram = BᵀB and Cov(z) = I.

    gram [batch, r, r], z [batch, r] or [batch, r, columns]; u has the shape of z. A Cholesky factor serves; samples
    where it does not exist to working precision (dependent columns, an all-zero mask) get the pseudo-inverse from an
    eigendecomposition.
    """
    columns = z.unsqueeze(-1) if z.dim() == 2 else z
    factor, _ = torch.linalg.cholesky_ex(gram, upper=True)  # the lower one takes a third longer
    u = torch.linalg.solve_triangular(factor, columns, upper=True)
    weak = _weak(factor, gram, gram)
    if weak is not None:
        u[weak] = _eigen_root(gram[weak], gram.shape[-1], rounding(gram)) @ columns[weak]
    return u.squeeze(-1) if z.dim() == 2 else u


def whiten_top(gram: Tensor, z: Tensor, power_steps: int) -> Tensor:
    """As `whiten`, within the top-k Ritz space of every sample: gram [batch, r, r], z [batch, k(, columns)], k < r.

    u [batch, r(, columns)] = X T z, where X = gram^power_steps E_k, and E_k are the first k coordinates. Its span is
    off the top-k eigenvectors by about (λ_{k+1} / λ_k)^power_steps. There is one Cholesky factor, of XᵀCX, and no
    orthogonalisation between the steps, so that this is computed in float64 (on the CPU where the device has none; for
    matrices this small it takes no longer). Samples whose λ_k is too small beside λ₁ for that, and those of lower
    rank than k, get the exact eigenvectors.
    """
    k = z.shape[1]
    device = torch.device("cpu") if gram.device.type == "mps" else gram.device
    wide = gram.to(device, torch.float64)
    columns = (z.unsqueeze(-1) if z.dim() == 2 else z).to(wide)
    x = torch.eye(gram.shape[-1], k, dtype=wide.dtype, device=device).expand(len(wide), -1, -1)
    image = wide[:, :, :k].contiguous()
    for _ in range(power_steps):
        x, image = image, wide @ image
    inner = x.mT @ image
    factor, _ = torch.linalg.cholesky_ex(inner, upper=True)
    u = x @ torch.linalg.solve_triangular(factor, columns, upper=True)
    weak = _weak(factor, inner, gram.to(device))
    if weak is not None:
        u[weak] = _eigen_root(wide[weak], k, rounding(gram)) @ columns[weak]
    u = u.to(z)
    return u.squeeze(-1) if z.dim() == 2 else u


def rounding(gram: Tensor) -> float:
    """What is known of the eigenvalues of a computed Gram matrix [batch, r, r], relative to the largest."""
    return 8 * gram.shape[-1] * torch.finfo(gram.dtype).eps


def _weak(factor: Tensor, factored: Tensor, gram: Tensor) -> Tensor | None:
    """Indices of the samples for which a Cholesky factor [batch, k, k] is not to be trusted; None where it is for all.

    The error of what is solved with it is about eps over the smallest square of a pivot relative to its diagonal entry:
    badly scaled columns do no harm. A factorisation that failed has a pivot that is 0 or no number. And the first k
    basis vectors must be more than rounding beside the largest: their squared lengths are the diagonal of `gram`.
    """
    least = 64 * rounding(factored) + torch.finfo(factored.dtype).eps ** 0.6
    sound = factor.diagonal(dim1=1, dim2=2).square() > least * factored.diagonal(dim1=1, dim2=2)
    squares = gram.diagonal(dim1=1, dim2=2)
    sound &= squares[:, : sound.shape[1]] > rounding(gram) * squares.amax(1, keepdim=True)
    return None if bool(sound.all()) else (~sound.all(1)).nonzero().squeeze(1)


def _eigen_root(gram: Tensor, k: int, tolerance: float) -> Tensor:
    """T [batch, r, min(k, r)] with T Tᵀ the pseudo-inverse of gram on its top-k eigenvectors, in gram's dtype.

    Eigenvalues below `tolerance` of the largest count as zero. In float64: batched single precision fails on
    repeated zeros. A matrix that is not finite gives NaN, for the caller to find, not a solver's error.
    """
    device = torch.device("cpu") if gram.device.type == "mps" else gram.device
    wide = gram.to(device, torch.float64)
    values, vectors = torch.linalg.eigh(wide.nan_to_num(0.0, 0.0, 0.0))
    kept = values > tolerance * values[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
    scale = torch.where(kept, values, 1).rsqrt() * kept
    scale[~wide.isfinite().all(2).all(1)] = torch.nan
    return (vectors * scale.unsqueeze(1))[:, :, -k:].flip(2).to(gram)
