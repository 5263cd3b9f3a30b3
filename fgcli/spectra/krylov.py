"""Leading right singular subspaces of a batch of matrices known by products alone: block Lanczos with Rayleigh–Ritz.

Golub and Kahan's block process with full reorthogonalisation (Golub, Luk, Overton 1981): blocks Q_1 = orth(A X),
Q_{j+1} = orth(A AᵀQ_j) against all before. R = AᵀQ spans the block Krylov space of AᵀA and lies in Im(Aᵀ) exactly,
whatever rounding does to Q; the eigenvectors of RᵀR = QᵀAAᵀQ are the Ritz vectors (Musco and Musco 2015 for how few
blocks are enough).
"""

from typing import Protocol

import torch
from torch import Tensor

from fgcli.spectra.masked import leading_root, whitening
from fgcli.spectra.scaling import near_one
from fgcli.spectra.tracking import orthonormal


class Products(Protocol):
    """A [batch, m, n] by its products with [batch, n, columns] and Aᵀ's with [batch, m, columns]."""

    @property
    def input_dim(self) -> int: ...

    @property
    def output_dim(self) -> int: ...

    def apply(self, v: Tensor) -> Tensor: ...

    def apply_transpose(self, u: Tensor) -> Tensor: ...


def krylov_images(matrices: Products, start: Tensor, r: int, batch: int) -> Tensor:
    """R = AᵀQ [batch, n, r], Q orthonormal: start X [n, b] is the same for all matrices.

    r is capped at m; with r = m, Q is whole and R spans Im(Aᵀ). Takes ⌈r/b⌉ products with A and as many with Aᵀ, each
    of b columns.
    """
    r = min(r, matrices.output_dim)
    basis: list[Tensor] = []
    images: list[Tensor] = []
    block = matrices.apply(start.expand(batch, -1, -1))
    while True:
        left = r - sum(q.shape[2] for q in basis)
        basis.append(_orthonormal(block[:, :, :left], basis))
        images.append(matrices.apply_transpose(basis[-1]))
        if left <= block.shape[2]:
            return torch.cat(images, 2)
        block = matrices.apply(images[-1])


def ritz_vectors(images: Tensor, k: int) -> Tensor:
    """Orthonormal top-k right Ritz vectors of R [batch, n, r], near one, by descending Ritz value: [batch, n, k].

    Columns beyond a sample's rank are 0.
    """
    gram = images.mT @ images
    if k < gram.shape[2]:
        return images @ leading_root(gram, k)
    identity = torch.eye(gram.shape[2], dtype=gram.dtype, device=gram.device)
    return images @ whitening(gram)(identity.expand_as(gram))


def mean_image(images: Tensor, start: Tensor) -> Tensor:
    """Half an orthogonal iteration: the mean over b of R_b R_bᵀX [n, b], nearly that of AᵀA X, for start X [n, b].

    images: R [batch, n, r]. Not scaled, so that the means of several batches make one.
    """
    return (images @ (images.mT @ start)).mean(0)


def followed(image: Tensor) -> Tensor:
    """The other half: X [n, b], orthonormal, of the mean image [n, b].

    Done at every step, it follows the space that holds most of the matrices' energy: where the next ones start.
    """
    return orthonormal(near_one(image))


def _orthonormal(block: Tensor, basis: list[Tensor]) -> Tensor:
    """Q [batch, m, b] with the span of block [batch, m, b] as far as the basis before does not hold it already.

    Where it does, Q holds directions that rounding made: orthonormal to the others all the same.
    """
    for _ in range(2):
        for _ in range(2):
            for q in basis:
                block = block - q @ (q.mT @ block)
        block = orthonormal(near_one(block))
    return block
