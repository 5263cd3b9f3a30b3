"""The top-k eigenvectors of a batch of Gram matrices, set apart by the sign of the shifted matrix."""

import torch
from torch import Tensor

from fgcli.spectra.masked import Coordinates, leading_root, rounding, solving
from fgcli.spectra.sign import signs

APART = 0.05
"""The share by which σ_k and σ_{k+1} must differ for the cut between them to be exact; closer ones are mapped between
0 and 1, since the number of quintics has no bound as they meet."""
ERROR = 2e-6
"""Of the sign, twice that of the projector."""


def top_projector(gram: Tensor, k: int) -> Tensor:
    """P [batch, r, r] onto the top-k eigenvectors of gram [batch, r, r], or all that are not 0."""
    return _cut(gram, k)[0]


def top_root(gram: Tensor, k: int) -> Coordinates:
    """z -> u = T z with T Tᵀ = gram⁺ on its top-k eigenvectors: [batch, r(, columns)] to the same.

    T = P R⁻¹ with RᵀR = P C + τ² (I - P), a Cholesky factor of what is well conditioned wherever C is above the cut.
    """
    projector, shift = _cut(gram, k)
    rest = -projector * shift
    rest.diagonal(dim1=1, dim2=2).add_(shift.view(-1, 1))
    factor, failed = torch.linalg.cholesky_ex(gram @ projector + rest, upper=True)
    weak = failed.nonzero().squeeze(1)
    return solving(factor, weak, leading_root(gram[weak], k) if len(weak) else None, projector)


def _cut(gram: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(P, τ² [batch, 1, 1]): the cut lies midway between the squares of each sample's own σ_k and σ_{k+1}.

    What is lost in the rounding of `gram` counts as 0.
    """
    # In float64 on the CPU; 0 for a matrix that is not finite, whose sign is not either.
    wide = gram.cpu().double().nan_to_num(0.0, 0.0, 0.0)
    values = torch.linalg.eigvalsh(wide).flip(1).clamp_min(0)
    largest = values[:, :1]
    values = torch.where(values > rounding(gram) * largest, values, 0.0)
    kept = (values[:, :k] > 0).sum(1, keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    around = torch.cat([largest, values, torch.zeros_like(largest)], 1)
    above, below = around.gather(1, kept), around.gather(1, kept + 1)
    shift = (above + below) / 2
    # A little beyond the largest distance, which is rounded.
    scale = torch.maximum(largest - shift, shift) * (1 + rounding(gram))
    least = above * (1 - (1 - APART) ** 2) / 2
    gaps = (torch.maximum((above - below) / 2, least) / scale).squeeze(1)
    shift, scale = shift.to(gram).unsqueeze(2), scale.to(gram).unsqueeze(2)
    shifted = gram / scale
    shifted.diagonal(dim1=1, dim2=2).sub_((shift / scale).squeeze(2))
    projector = signs(shifted, gaps, ERROR).div_(2)
    projector.diagonal(dim1=1, dim2=2).add_(0.5)
    return projector, shift
