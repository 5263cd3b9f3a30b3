"""What was drawn at a site, for the tangents of one estimate: enough to make Σ_k c_k y_k once the c are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fgcli.gradient.guess import LinearMap
from fgcli.gradient.tangents import Tangents


@dataclass(frozen=True)
class Gram:
    """VᵀV [batch, K, K] of v_k [K, batch, n]: what `combine` orthogonal (of the noise) or projection asks for."""

    matrix: Tensor
    n: int

    @classmethod
    def of(cls, tangents: Tangents, vectors: Tensor) -> "Gram":
        return cls(tangents.gram(vectors), vectors.shape[2])


@dataclass(frozen=True)
class Kept:
    """The guesses themselves, y [K, batch, *site.shape], and, where `combine` asks for it, the Gram matrix of their
    noise, which may be longer by far."""

    guesses: Tensor
    of_noise: Gram | None = None

    def first(self) -> Tensor:
        """y of the first tangent."""
        return self.guesses[0]

    def all(self) -> Tensor:
        """y [K, batch, *site.shape]."""
        return self.guesses

    def gram(self, tangents: Tangents) -> Gram:
        return self.of_noise or Gram.of(tangents, self.guesses.flatten(2))

    def combined(self, c: Tensor) -> Tensor:
        """Σ_k c_k y_k of c [batch, K]: [batch, *site.shape]."""
        y = self.guesses
        if len(y) == 1:
            return y[0] * c.view(-1, *[1] * (y.dim() - 2))
        return _weighted_sum(c, y.flatten(2)).view(y.shape[1:])


@dataclass(frozen=True)
class Mapped:
    """The noise z [K, batch, noise_dim] and its map: Σ_k c_k y_k = A Σ_k c_k z_k, so that no y need be kept."""

    linear: LinearMap
    noise: Tensor

    def first(self) -> Tensor:
        return self.linear.map(self.noise[0])

    def all(self) -> Tensor:
        return self.linear.columns(self.noise)

    def gram(self, tangents: Tangents) -> Gram:
        return Gram.of(tangents, self.noise)

    def combined(self, c: Tensor) -> Tensor:
        return self.linear.map(_weighted_sum(c, self.noise))


def _weighted_sum(c: Tensor, vectors: Tensor) -> Tensor:
    """Σ_k c_k v_k: c [batch, K], vectors [K, batch, n] -> [batch, n]."""
    return (c.to(vectors.dtype).unsqueeze(1) @ vectors.transpose(0, 1)).squeeze(1)


Drawn = Kept | Mapped


def joined(parts: Sequence[Drawn]) -> Drawn:
    """The tangents of several parts, drawn at one site with the same batch."""
    first = parts[0]
    if len(parts) == 1:
        return first
    if isinstance(first, Kept):
        return Kept(torch.cat([part.guesses for part in parts if isinstance(part, Kept)]))
    return Mapped(first.linear, torch.cat([part.noise for part in parts if isinstance(part, Mapped)]))
