"""Projection onto Im(Aᵀ) for a batch of matrices known by products alone."""

import torch
from torch import Tensor

from fgcli.spectra.krylov import Products


def project_onto_rows(matrices: Products, v: Tensor, iterations: int) -> Tensor:
    """A⁺A v, the part of v in Im(Aᵀ): [batch, n(, columns)] -> the same.

    Conjugate gradients on AᵀA x = AᵀA v from x = 0 (CGLS; Hestenes and Stiefel 1952), every sample and column by
    itself, until its residual is eps^(2/3) of the first or `iterations` are done. Each costs a product with A and one
    with Aᵀ. Every iterate lies in Im(Aᵀ). What is missing of the projection lies along the small singular values.
    """
    single = v.dim() == 2
    columns = v.unsqueeze(-1) if single else v
    residual = matrices.apply(columns)
    gradient = matrices.apply_transpose(residual)
    direction, x = gradient, torch.zeros_like(columns)
    square = gradient.square().sum(1, keepdim=True)
    enough = square * torch.finfo(v.dtype).eps ** (4 / 3)
    active = square > 0
    for _ in range(iterations):
        if not bool(active.any()):
            break
        image = matrices.apply(direction)
        length = torch.where(active, square / image.square().sum(1, keepdim=True), 0)
        x = x + length * direction
        residual = residual - length * image
        gradient = matrices.apply_transpose(residual)
        following = gradient.square().sum(1, keepdim=True)
        direction = torch.where(active, gradient + following / square * direction, direction)
        square = torch.where(active, following, square)
        active = active & (square > enough)
    return x.squeeze(-1) if single else x
