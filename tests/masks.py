"""Weights and masks on which every solver is held to a naive transcription: ranks and masks of all kinds."""

import torch
from torch import Tensor

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory
from fgcli.gradient.upstream import LinearUpstream


def weight(d_out: int, d_in: int, *, rank: int | None = None, gap_at: int | None = None, seed: int = 0) -> Tensor:
    """Gaussian [d_out, d_in]; of `rank` if given; with singular values beyond `gap_at` a thousandth of those before."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.randn(d_out, d_in, generator=generator, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(full, full_matrices=False)
    if gap_at is not None:
        s = torch.cat([torch.linspace(2, 1, gap_at, dtype=torch.float64), s[gap_at:] * 1e-3])
    if rank is not None:
        s = torch.where(torch.arange(len(s)) < rank, s, 0)
    return (u * s) @ vh


def masks(d: int, seed: int = 1) -> Tensor:
    """[7, d]: all ones, all zeros, a single one, three ones, and three random ones."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.zeros(4, d, dtype=torch.float64)
    fixed[0] = 1
    fixed[2, 0] = 1
    fixed[3, 1:4] = 1
    return torch.cat([fixed, (torch.rand(3, d, generator=generator) < 0.6).double()])


def layer_below(matrix: Tensor, batch: int | None = None, *, step: int = 0) -> Layer:
    """A layer below a linear one of this weight, with the outputs of `batch` samples."""
    d_in = matrix.shape[1]
    output = None if batch is None else torch.zeros(batch, d_in, dtype=matrix.dtype)
    return Layer("site", (d_in,), torch.eye(d_in, dtype=matrix.dtype), step, matrix, output)


def map_of(
    method: GuessMethod, matrix: Tensor, mask: Tensor, *, step: int = 0, memory: Memory | None = None
) -> LinearMap:
    """The guess of every sample where the upstream Jacobian is matrix · diag(mask)."""
    prepared = method.prepare(layer_below(matrix, step=step), Memory() if memory is None else memory)
    return method.linearize(layer_below(matrix, len(mask), step=step), LinearUpstream(matrix, mask), prepared)


def covariance(method: GuessMethod, matrix: Tensor, mask: Tensor, *, step: int = 0) -> Tensor:
    """A Aᵀ of every sample, from the map applied to the columns of the identity: [batch, d_in, d_in]."""
    linear = map_of(method, matrix, mask, step=step)
    n = linear.noise_dim
    a = linear.map(torch.eye(n, dtype=matrix.dtype).expand(len(mask), n, n))
    for j in range(n):  # columns one by one and all at once are the same map
        column = linear.map(torch.eye(n, dtype=matrix.dtype)[j].expand(len(mask), n))
        torch.testing.assert_close(column, a[:, :, j], rtol=0, atol=1e-3 if matrix.dtype == torch.float32 else 1e-9)
    return a @ a.mT


def naive_top_k_projector(matrix: Tensor, mask: Tensor, k: int) -> Tensor:
    """The paper, a sample at a time: the SVD of W M_b, its k largest singular values (at most its rank), V_k V_kᵀ."""
    projectors = []
    for row in mask:
        _, s, vh = torch.linalg.svd(matrix @ torch.diag(row), full_matrices=False)
        rank = int((s > 1e-9 * matrix.norm()).sum())
        v = vh[: min(k, rank)].T
        projectors.append(v @ v.T)
    return torch.stack(projectors)
