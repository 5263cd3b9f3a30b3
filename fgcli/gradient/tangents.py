"""K tangents of one step: what their noise is, and how their directional derivatives make one estimate.

With noise z_k, guesses y_k = A z_k over all sites and δ_k = ⟨g, y_k⟩ per sample, every estimate is Σ_k c_k y_k. Only
the K numbers c differ:

mean         c = δ / K
orthogonal   c = (n / K) (ZᵀZ)⁻¹ δ for Z = [z_1 … z_K], n the length of z: exactly the mean over the K directions
             √n Q, where Z = QR, Q with orthonormal columns. Gaussian Z gives a Q that is uniform (Haar). Unbiased
             where the mean is; K = n gives A Aᵀg itself, whatever was drawn.
sitewise     every tangent starts at one site, K at each: orthogonal there, and without the noise of all other sites. It
             exists from that site on alone. K = n, the dimension of a site's noise, gives A Aᵀg of every site.
projection   c = ((1 - s) G + s (tr G / K) I)⁻¹ δ for G = YᵀY and the shrinkage s: with s → 0 the least-squares
             projection of g onto the span of the guesses, with s = 1 along the mean. Shorter than g, and NOT corrected
             for that.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fgcli.gradient.errors import OptionRefused
from fgcli.gradient.randomness import StepRng

Combine = Literal["mean", "orthogonal", "sitewise", "projection"]
Draws = Literal["gaussian", "rademacher", "antithetic"]

WIDENED = 2**17
"""Numbers that are widened to float64 at a time: a MiB, which a cache holds."""


@dataclass(frozen=True)
class Tangents:
    """How many, of what noise, combined how, and how many of them at a time (`chunk`; None: all).

    antithetic: each even one is the one before it with its sign turned. δ y is the same for both, as the derivative is
    exact: a control, that gains nothing over half the number.
    """

    number: int = 1
    combine: Combine = "mean"
    draws: Draws = "gaussian"
    shrinkage: float = 0.01
    chunk: int | None = None

    @property
    def single(self) -> bool:
        """Whether the estimate is δ y of one guess, as in the papers."""
        return self.number == 1 and self.combine == "mean"

    @property
    def are_orthogonal(self) -> bool:
        """Whether the noise of the tangents is made orthogonal."""
        return self.combine in ("orthogonal", "sitewise")

    @property
    def parts(self) -> Iterator[range]:
        """The tangents of each pass."""
        size = self.chunk or self.number
        return (range(start, min(start + size, self.number)) for start in range(0, self.number, size))

    def key(self, purpose: str, k: int) -> str:
        """Purpose of the stream of tangent k, the same whatever the number of tangents; of the first, `purpose`."""
        return f"{purpose}-{k}" if k else purpose

    def noise(self, rng: StepRng, purpose: str, name: str, part: range, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """z_k of mean 0 and covariance I, for every k of `part`: [len(part), *shape]."""
        z = like.new_empty(len(part), *shape)
        for k, one in zip(part, z, strict=True):
            stream = k // 2 if self.draws == "antithetic" else k
            key = self.key(purpose, stream)
            if self.draws == "rademacher":
                one.copy_(rng.signs(key, name, shape, like.device).values(like.dtype))
            else:
                rng.normal_(one, key, name)
            if self.draws == "antithetic" and k % 2:
                one.neg_()
        return z

    def coefficients(self, delta: Tensor, gram: Tensor | None = None, n: int = 0) -> Tensor:
        """c [batch, K] of δ [batch, K]; `gram` [batch, K, K] is ZᵀZ or YᵀY as `combine` asks, n the length of z."""
        if self.combine == "mean" or gram is None:
            return delta / self.number
        # δ is rounded: a direction that only rounding tells from the others must not multiply its error.
        least = max(torch.finfo(delta.dtype).eps ** 1.5, 1e-14)
        share = self.shrinkage if self.combine == "projection" else 0.0
        mean = gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
        ridge = ((share + least) * mean).clamp_min(torch.finfo(gram.dtype).tiny)
        shrunk = (1 - share) * gram + torch.diag_embed(ridge.expand(-1, self.number))
        factor, _ = torch.linalg.cholesky_ex(shrunk, upper=True)
        c = torch.cholesky_solve(delta.to(gram).unsqueeze(2), factor, upper=True).squeeze(2)
        return (c * (n / self.number) if self.are_orthogonal else c).to(delta)

    def gram(self, vectors: Tensor) -> Tensor:
        """VᵀV in float64 of the noise or the guesses that `combine` asks for: [K, batch, n] -> [batch, K, K]."""
        independent = self.are_orthogonal and self.draws != "antithetic"
        if independent and vectors.shape[2] >= 4 * self.number:
            # Its eigenvalues are within about n / 4 and 9 n / 4: the products need no more digits than δ has.
            rows = vectors.transpose(0, 1)
            return _wide(rows @ rows.mT)
        return gram_of(vectors)

    def refuse_above(self, dims: Mapping[str, int]) -> None:
        """Raises OptionRefused for more orthogonal directions than the noise has dimensions; `dims` are its parts."""
        if not dims:  # nothing is guessed
            return
        least = min(dims, key=lambda name: dims[name])
        if self.combine == "sitewise" and self.number > dims[least]:
            raise OptionRefused(
                f"tangents is {self.number}; combine sitewise takes at most {dims[least]} here, the dimension of the "
                f"guess at site '{least}': lower it"
            )
        n = sum(dims.values())
        if self.combine == "orthogonal" and self.number > n:
            parts = ", ".join(f"{name} {dim}" for name, dim in dims.items())
            raise OptionRefused(
                f"tangents is {self.number}; combine orthogonal takes at most {n} here, the dimension of the guess "
                f"space ({parts}): lower it, or use combine mean"
            )

    def refuse_for_sampled(self, method: str) -> None:
        """Raises OptionRefused for what a method that draws for itself cannot have."""
        if self.combine != "mean" or self.draws != "gaussian":
            what = f"combine {self.combine}" if self.combine != "mean" else f"draws {self.draws}"
            raise OptionRefused(
                f"{what} chooses the noise z of a method that is linear in it, y = A z; {method} draws for itself (it "
                "implements sample): use combine mean and draws gaussian"
            )


def gram_of(vectors: Tensor) -> Tensor:
    """VᵀV by float64 of v_k [K, batch, n]: [batch, K, K]; a few samples at a time."""
    rows = vectors.transpose(0, 1)
    size = max(1, WIDENED // max(1, rows[0].numel()))
    return torch.cat([wide @ wide.mT for wide in map(_wide, rows.split(size))])


def _wide(values: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()
