"""What was drawn at a site, for the tangents of one estimate: enough to make Σ_k c_k y_k once the c are known."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fgcli.gradient.tangents import gram_of


@dataclass(frozen=True)
class LinearMap:
    """A linear guess at a site, for one batch: z [batch, noise_dim(, columns)] -> [batch, *site.shape(, columns)]."""

    noise_dim: int
    map: Callable[[Tensor], Tensor]

    def columns(self, z: Tensor) -> Tensor:
        """y [batch, tangents, *site.shape] of z [batch, noise_dim, tangents], sharing no memory with z."""
        y = self.map(z).movedim(-1, 1).contiguous()
        return y.clone() if y.untyped_storage().data_ptr() == z.untyped_storage().data_ptr() else y


@dataclass(frozen=True)
class Gram:
    """VᵀV [batch, K, K] of vectors V [batch, n, K]: what `combine` orthogonal (of the noise) or projection asks for."""

    matrix: Tensor
    n: int

    @classmethod
    def of(cls, vectors: Tensor) -> "Gram":
        return cls(gram_of(vectors), vectors.shape[1])


@dataclass(frozen=True)
class Kept:
    """The guesses themselves, y [batch, K, *site.shape], and, where `combine` asks for it, the Gram matrix of their
    noise, which may be longer by far."""

    guesses: Tensor
    of_noise: Gram | None = None

    def first(self) -> Tensor:
        """y of the first tangent."""
        return self.guesses[:, 0]

    def all(self) -> Tensor:
        """y [batch, K, *site.shape], a tensor that may be written into."""
        return self.guesses.clone()

    @property
    def gram(self) -> Gram:
        return self.of_noise or Gram.of(self.guesses.flatten(2).mT)

    def combined(self, c: Tensor) -> Tensor:
        """Σ_k c_k y_k of c [batch, K]: [batch, *site.shape]. Where K = 1, y itself is written into."""
        y = self.guesses
        if y.shape[1] == 1:
            return y[:, 0].mul_(c.view(-1, *[1] * (y.dim() - 2)))
        return (c.unsqueeze(1) @ y.flatten(2)).view(len(y), *y.shape[2:])


@dataclass(frozen=True)
class Mapped:
    """The noise z [batch, noise_dim, K] and its map: Σ_k c_k y_k = A Σ_k c_k z_k, so that no y need be kept."""

    linear: LinearMap
    noise: Tensor

    def first(self) -> Tensor:
        return self.linear.map(self.noise[..., 0].contiguous())

    def all(self) -> Tensor:
        return self.linear.columns(self.noise)

    @property
    def gram(self) -> Gram:
        return Gram.of(self.noise)

    def combined(self, c: Tensor) -> Tensor:
        return self.linear.map((self.noise @ c.unsqueeze(2)).squeeze(2))


Drawn = Kept | Mapped


def joined(parts: Sequence[Drawn]) -> Drawn:
    """The tangents of several parts, drawn at one site with the same batch."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Kept):
        return Kept(torch.cat([part.guesses for part in parts if isinstance(part, Kept)], dim=1))
    return Mapped(first.linear, torch.cat([part.noise for part in parts if isinstance(part, Mapped)], dim=2))
