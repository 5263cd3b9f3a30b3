"""Coordinates of a vector in nested subspaces: their running sum of squares is the projection for every k at once."""

import torch
from torch import Tensor


def principal_coordinates(matrix: Tensor, diagonal: Tensor, vector: Tensor) -> Tensor:
    """The coordinates V_bᵀ v_b in the right singular vectors of W diag(m_b), of descending singular values.

    matrix W [m, n], diagonal [batch, n], vector [batch, n] -> [batch, min(m, n)], 0 beyond the rank. The literal SVD's
    V up to sign (and up to rotation where singular values are equal), in float64, a sample at a time: only the columns
    that the diagonal keeps, and the eigenvectors of the smaller Gram matrix of those. Squaring loses what lies below
    1e-7 σ₁; such singular values count as zero.
    """
    out = torch.zeros(len(vector), min(matrix.shape), dtype=torch.float64)
    wide = _cpu(matrix)
    for row, m, v in zip(out, _cpu(diagonal), _cpu(vector), strict=True):
        active = m.nonzero().squeeze(1)
        a = wide[:, active] * m[active]
        coordinates = _principal(a, v[active])
        row[: len(coordinates)] = coordinates
    return out.to(vector.device, vector.dtype if vector.device.type == "mps" else torch.float64)


def _principal(a: Tensor, v: Tensor) -> Tensor:
    if a.numel() == 0:
        return v.new_zeros(0)
    tall = a.shape[0] >= a.shape[1]
    values, vectors = torch.linalg.eigh(a.T @ a if tall else a @ a.T)
    values, vectors = values.flip(0), vectors.flip(1)
    kept = values > 1e-14 * values[0]
    # V = eigenvectors of AᵀA; or AᵀU / σ from those of AAᵀ.
    inner = vectors.T @ v if tall else (vectors.T @ (a @ v)) * torch.where(kept, values, 1).rsqrt()
    return torch.where(kept, inner, 0)


def nested_coordinates(columns: Tensor, diagonal: Tensor, vector: Tensor) -> Tensor:
    """Coordinates of v_b in the Gram–Schmidt basis of the columns of diag(m_b) B, in their order.

    columns B [n, r], diagonal [batch, n], vector [batch, n] -> [batch, r]; 0 for a column that depends on those
    before it. So the sum of the first k squares is ‖P v‖², P the projector onto the span of the first k columns.
    """
    out = torch.zeros(len(vector), columns.shape[1], dtype=torch.float64)
    wide = _cpu(columns)
    for row, m, v in zip(out, _cpu(diagonal), _cpu(vector), strict=True):
        active = m.nonzero().squeeze(1)
        basis, kept = _independent(wide[active] * m[active].unsqueeze(1))
        row[kept] = basis.T @ v[active]
    return out.to(vector.device, vector.dtype if vector.device.type == "mps" else torch.float64)


def _independent(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Q [n, kept] of the Gram–Schmidt process on columns [n, r], and which columns it kept: [kept]."""
    kept = torch.arange(columns.shape[1])
    while True:
        q, r = torch.linalg.qr(columns[:, kept])
        pivots, used = r.diagonal().abs(), kept[: q.shape[1]]
        dependent = pivots <= 1e-10 * columns[:, used].norm(dim=0)
        if not dependent.any():
            return q, used
        # Behind a dependent column Q holds a direction that is none of theirs: leave it out and look again.
        first = int(dependent.nonzero()[0])
        kept = torch.cat([kept[:first], kept[first + 1 :]])


def _cpu(values: Tensor) -> Tensor:
    return values.detach().cpu().double()  # in this order: MPS has no float64
