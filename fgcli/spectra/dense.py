"""Singular subspaces of a batch of dense matrices: the paper's literal way, and the oracle of the fast ones."""

import torch
from torch import Tensor

from fgcli.spectra.scaling import double


def right_singular_vectors(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Reduced SVD: V [batch, n, min(m, n)] and the numerical rank [batch] of matrices [batch, m, n].

    Singular values descend. The rank counts those above max(m, n) · eps · σ₁ in the precision of the input. Computed in
    float64, where repeated zeros do not break the batched solver as they do in float32, and on the CPU where the
    device has no float64 (MPS). V has the input's dtype and device. A matrix that is not finite has V of NaN and its
    full rank, for the caller to find, not a solver's error.
    """
    m, n = matrices.shape[1:]
    wide = double(matrices)
    finite = wide.isfinite().all(2).all(1)
    _, values, vh = torch.linalg.svd(wide.nan_to_num(0.0, 0.0, 0.0), full_matrices=False)
    vh[~finite] = torch.nan
    threshold = max(m, n) * torch.finfo(matrices.dtype).eps * values[:, :1]
    rank = (values > threshold).sum(1).masked_fill(~finite, min(m, n))
    return vh.mT.to(matrices), rank.to(matrices.device)


def times(matrices: Tensor, vectors: Tensor) -> Tensor:
    """A_b z_b: [batch, m, n] and [batch, n(, columns)] -> [batch, m(, columns)]."""
    return (matrices @ vectors.unsqueeze(-1)).squeeze(-1) if vectors.dim() == 2 else matrices @ vectors


def masked(active: Tensor, z: Tensor) -> Tensor:
    """z [batch, d(, columns)] where `active` [batch, d] is, else 0."""
    mask = active.to(z.dtype)
    return z * (mask if z.dim() == 2 else mask.unsqueeze(-1))
