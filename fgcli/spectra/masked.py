"""Subspaces of M_b B for one basis B and a batch of diagonals M_b, without anything of size batch × d × d.

All samples share the matrix; only the diagonal differs. The Gram matrix BᵀM_b²B of every sample is then one product
of the squared diagonals with the products of B's columns, which depend on B alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from fgcli.spectra.scaling import double, near_one

CHUNK = 2**17  # entries of the Gram matrices held at a time: a MiB at most, which the allocator keeps and a cache holds
PRODUCTS = 2**24  # entries of products of columns that are kept; a basis with more goes without

Coordinates = Callable[[Tensor], Tensor]
"""Noise or vectors of every sample, [batch, k(, columns)], to others, linearly."""
Exact = Callable[[Tensor], tuple[Tensor, float]]
"""Gram matrices of the samples with these indices, in float64, and the eigenvalue over the largest that counts as 0."""


@dataclass(frozen=True)
class MaskedBasis:
    """A basis B [d, r], not necessarily orthonormal, ready to be masked sample by sample."""

    basis: Tensor
    """B up to a power of two, which no span and no projector depends on."""
    products: Tensor | None
    """Products of pairs of columns (`_pairs`): [d, pairs]; None where they would take more room than they save time."""

    @classmethod
    def of(cls, basis: Tensor) -> "MaskedBasis":
        basis = near_one(basis)
        d, r = basis.shape
        if d * r * (r + 1) // 2 > PRODUCTS:
            return cls(basis, None)
        i, j, _ = _pairs(r, basis.device)
        return cls(basis, basis.index_select(1, i).mul_(basis.index_select(1, j)))

    def mapped(self, coordinates: Callable[[Tensor], Coordinates], diagonal: Tensor) -> Coordinates:
        """z -> M_b B u_b, where u = coordinates(diagonals [part, d])(z): [part, k(, columns)] -> [part, r(, columns)].

        What `coordinates` computes of the diagonals alone is computed once. The batch goes in parts of like size, whose
        Gram matrices have few enough entries.
        """
        d, r = self.basis.shape
        chunk = CHUNK if diagonal.device.type == "cpu" else 32 * CHUNK  # other devices want few and large kernels
        parts = math.ceil(len(diagonal) * r * (d if self.products is None else r) / chunk)
        size = max(1, math.ceil(len(diagonal) / max(1, parts)))
        of_parts = [coordinates(part) for part in diagonal.split(size)]

        def vectors(z: Tensor) -> Tensor:
            if len(of_parts) == 1:
                return self.combine(diagonal, of_parts[0](z))
            pairs = zip(of_parts, z.split(size), strict=True)
            return self.combine(diagonal, torch.cat([of_part(part) for of_part, part in pairs]))

        return vectors

    def gram(self, diagonal: Tensor) -> Tensor:
        """BᵀM_b²B: diagonals [batch, d] -> [batch, r, r]."""
        if self.products is None:
            masked = self.basis * diagonal.unsqueeze(-1)
            return masked.mT @ masked
        r = self.basis.shape[1]
        _, _, position = _pairs(r, diagonal.device)
        return ((diagonal * diagonal) @ self.products).index_select(1, position).unflatten(1, (r, r))

    def projection(self, diagonal: Tensor, k: int | None = None, power_steps: int = 0) -> Coordinates:
        """z -> y_b = M_b B T z: [batch, k(, columns)] of covariance I -> [batch, d(, columns)] of a projector's.

        The projector is that onto the span of M_b B if k = r (`whitening`), else onto its top-k Ritz space
        (`top_whitening`).
        """
        whole = k is None or k == self.basis.shape[1]

        def coordinates(diagonal: Tensor) -> Coordinates:
            gram, exact = self.gram(diagonal), partial(self._exact_gram, diagonal)
            return whitening(gram, exact) if whole else top_whitening(gram, k or 0, power_steps, exact)

        return self.mapped(coordinates, diagonal)

    def _exact_gram(self, diagonal: Tensor, index: Tensor) -> tuple[Tensor, float]:
        """A sample at a time. B itself is known to max(d, r) eps of its largest singular value, as in `dense`."""
        wide = double(self.basis)
        grams = wide.new_empty(len(index), wide.shape[1], wide.shape[1])
        for gram, row in zip(grams, diagonal[index.to(diagonal.device)].to(wide), strict=True):
            masked = wide * row.unsqueeze(1)
            torch.mm(masked.T, masked, out=gram)
        return grams, max((max(wide.shape) * torch.finfo(self.basis.dtype).eps) ** 2, rounding(grams))

    def combine(self, diagonal: Tensor, coordinates: Tensor) -> Tensor:
        """M_b B u_b: diagonals [batch, d], coordinates [batch, r] or [batch, r, columns] -> [batch, d(, columns)]."""
        if coordinates.dim() == 2:
            return (coordinates @ self.basis.T).mul_(diagonal)
        # One product of all rows, each vector's entries side by side; basis @ coordinates would be one a sample.
        return (coordinates.movedim(-1, 0) @ self.basis.T).mul_(diagonal).movedim(0, -1)


@lru_cache(maxsize=16)
def _pairs(r: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns of the upper triangle of an r × r matrix, and where each entry stands in that list.

    The list ends in repetitions of its first pair: a product with a multiple of eight columns takes a third less.
    """
    i, j = torch.triu_indices(r, r, device=device)
    position = torch.empty(r, r, dtype=torch.long, device=device)
    position[i, j] = position[j, i] = torch.arange(len(i), device=device)
    padding = (0, -len(i) % 8)
    return F.pad(i, padding), F.pad(j, padding), position.flatten()


def whitening(gram: Tensor, exact: Exact | None = None) -> Coordinates:
    """z -> u = T z with T Tᵀ = gram⁺, so that B u has the covariance of a projector if gram = BᵀB and Cov(z) = I.

    gram [batch, r, r], z [batch, r] or [batch, r, columns]; u has the shape of z. A Cholesky factor serves; samples
    where it does not exist to working precision (dependent columns, an all-zero mask) get the symmetric root of the
    pseudo-inverse from an eigendecomposition, of the `exact` Gram matrix where eigenvalues are near the rounding of
    this one.
    """
    factor, failed = torch.linalg.cholesky_ex(gram, upper=True)  # the lower one takes a third longer
    weak = _weak(factor, failed == 0, gram, gram)
    root = None if weak is None else _eigen_root(gram, weak, gram.shape[-1], exact)
    return solving(factor, weak, root)


def top_whitening(gram: Tensor, k: int, power_steps: int, exact: Exact | None = None) -> Coordinates:
    """As `whitening`, within the top-k Ritz space of every sample: gram [batch, r, r], z [batch, k(, columns)], k < r.

    u [batch, r(, columns)] = X T z, where X = gram^power_steps E_k, and E_k are the first k coordinates. Its span is
    off the top-k eigenvectors by about (λ_{k+1} / λ_k)^power_steps. There is one Cholesky factor, of XᵀCX, and no
    orthogonalisation between the steps, so that this is computed in float64 (on the CPU where the device has none; for
    matrices this small it takes no longer). Samples whose λ_k is too small beside λ₁ for that, and those of lower
    rank than k, get the exact eigenvectors.
    """
    wide = double(gram)
    x = torch.eye(gram.shape[-1], k, dtype=wide.dtype, device=wide.device).expand(len(wide), -1, -1)
    image = wide[:, :, :k].contiguous()
    for _ in range(power_steps):
        x, image = image, wide @ image
    inner = x.mT @ image
    factor, failed = torch.linalg.cholesky_ex(inner, upper=True)
    weak = _weak(factor, failed == 0, inner, gram.to(wide.device))
    root = None if weak is None else _eigen_root(gram, weak, k, exact)
    return solving(factor, weak, root, x)


def solving(factor: Tensor, weak: Tensor | None, root: Tensor | None, space: Tensor | None = None) -> Coordinates:
    """z -> X R⁻¹ z of factors R [batch, k, k], X = `space` [batch, r, k] or I; at the indices `weak` root z instead."""

    def coordinates(z: Tensor) -> Tensor:
        columns = (z.unsqueeze(-1) if z.dim() == 2 else z).to(factor)
        u = torch.linalg.solve_triangular(factor, columns, upper=True)
        u = u if space is None else space @ u
        if weak is not None and root is not None:
            u[weak] = root.to(u) @ columns[weak, : root.shape[2]]
        return (u.squeeze(-1) if z.dim() == 2 else u).to(z)

    return coordinates


def leading_root(gram: Tensor, k: int) -> Tensor:
    """T [batch, r, k] in the dtype of gram [batch, r, r], T Tᵀ its pseudo-inverse on its top-k eigenvectors."""
    return _eigen_root(gram, torch.arange(len(gram), device=gram.device), k, None).to(gram)


def rounding(gram: Tensor) -> float:
    """What is known of the eigenvalues of a computed Gram matrix [batch, r, r], relative to the largest."""
    return 8 * gram.shape[-1] * torch.finfo(gram.dtype).eps


def _weak(factor: Tensor, usable: Tensor, factored: Tensor, gram: Tensor) -> Tensor | None:
    """Indices of the samples for which a Cholesky factor [batch, k, k] is not to be trusted; None where it is for all.

    usable [batch]: where the factorisation succeeded. What is solved with it is off by about eps tr(R⁻¹), R being what
    was factored, scaled to a unit diagonal, so that badly scaled columns do no harm; √eps of the result's precision is
    allowed. As det R ≤ e λ_min(R), the pivots alone show most samples to be sound: tr(R⁻¹) ≤ e k / det R. What
    underflowed has lost its digits. And the first k basis vectors must be more than rounding beside the largest: their
    squared lengths are the diagonal of `gram`.
    """
    if len(factor) == 0:
        return None
    k, numbers = factor.shape[-1], torch.finfo(factored.dtype)
    limit = torch.finfo(gram.dtype).eps ** 0.5 / numbers.eps
    least = torch.finfo(gram.dtype).tiny / torch.finfo(gram.dtype).eps
    diagonal = factored.diagonal(dim1=1, dim2=2)
    squares = gram.diagonal(dim1=1, dim2=2)
    determinant = (factor.diagonal(dim1=1, dim2=2).square() / diagonal).prod(1)
    # Most batches pass by their extremes, which is quicker (aminmax: amin and amax take four times as long each).
    low, high = squares.aminmax()
    smallest, largest = float(low if k == squares.shape[1] else squares[:, :k].aminmax().min), float(high)
    if (
        bool(usable.all())
        and smallest > rounding(gram) * largest
        and float(determinant.aminmax().min) > math.e * k / limit
        and (factored is gram or float(diagonal.aminmax().min) > numbers.tiny / numbers.eps)
        and smallest > least
    ):
        return None
    usable = usable & (diagonal > numbers.tiny / numbers.eps).all(1)
    usable &= (squares[:, :k] > (rounding(gram) * squares.amax(1, keepdim=True)).clamp_min(least)).all(1)
    sound = usable & (determinant > math.e * k / limit)
    if bool(sound.all()):
        return None
    unsure = (~sound).nonzero().squeeze(1)
    identity = torch.eye(k, dtype=factor.dtype, device=factor.device).expand(len(unsure), k, k)
    inverse = torch.linalg.solve_triangular(factor[unsure], identity, upper=True)
    trace = (diagonal[unsure] * inverse.square().sum(2)).sum(1)
    weak = unsure[~(usable[unsure] & (trace < limit))]
    return weak if len(weak) else None


def _eigen_root(gram: Tensor, index: Tensor, k: int, exact: Exact | None) -> Tensor:
    """T [len(index), r, min(k, r)], T Tᵀ the pseudo-inverse of those Gram matrices on their top-k eigenvectors.

    What is lost in the rounding of `gram` is looked up in `exact`. In float64. With k >= r it is the symmetric root,
    which is invariant to the sign and rotation of eigenvectors, so that rounding does not make another draw of it.
    """
    values, vectors = _eigen(gram[index.to(gram.device)])
    zero = rounding(gram)
    if exact is not None and gram.dtype != torch.float64:
        numbers = torch.finfo(gram.dtype)
        known = (values[:, -k] > 256 * zero * values[:, -1]) & (values[:, -k] > numbers.tiny / numbers.eps)
        doubtful = (~known).nonzero().squeeze(1)
        if len(doubtful):
            wide, zero = exact(index[doubtful])
            values[doubtful], vectors[doubtful] = _eigen(wide)
    values, vectors = values[:, -k:].flip(1), vectors[:, :, -k:].flip(2)
    kept = values > zero * values[:, :1].clamp_min(torch.finfo(torch.float64).tiny)
    scale = torch.where(kept, values, 1).rsqrt() * kept
    root = vectors * torch.where(values.isnan(), torch.nan, scale).unsqueeze(1)
    return root @ vectors.mT if k >= gram.shape[2] else root


def _eigen(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues [batch, r], ascending, and eigenvectors of Gram matrices [batch, r, r], in float64.

    Batched single precision fails on repeated zeros. A matrix that is not finite has eigenvalues NaN, for the caller to
    find, not a solver's error.
    """
    wide = double(gram)
    values, vectors = torch.linalg.eigh(wide.nan_to_num(0.0, 0.0, 0.0))
    values[~wide.isfinite().all(2).all(1)] = torch.nan
    return values, vectors
