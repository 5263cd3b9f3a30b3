"""Noise for weights: in all of a weight, or in few of its dimensions. Its covariance is the identity in every case.

full        as `draws` says.
low-rank    z = A Bᵀ / √r, A [m, r] and B [n, r] Gaussian: EGGROLL's (Sarkar et al. 2025, arXiv:2511.16652). r (m + n)
            numbers in place of m n are drawn. Its squared norm varies more the smaller r is.
subspace    z = √(m n) / r · U Z Vᵀ, Z [r, r] Gaussian, U and V with orthonormal columns, drawn anew every `redraw`
            steps: SubZero's (Yu et al. 2024, arXiv:2410.08989). Between two redraws the estimates lie in r² dimensions.
sparse      z = mask ⊙ z' / √p, z' as `draws` says, and a mask with a share p of ones, drawn anew every `redraw` steps.

Covariances of `subspace` and `sparse` are the identity over redraws; between two of them they are a multiple of a
projector, so that the steps' estimates are not independent. Weights of more than two axes are taken as [m, the rest];
parameters of one axis have full noise.
"""

import math

import torch
from torch import Tensor

from fgcli.gradient.randomness import StepRng
from fgcli.gradient.tangents import Tangents
from fgcli.methods.options import WeightNoiseOptions
from fgcli.spectra.tracking import orthonormal


class WeightNoise:
    """Draws z_k of one parameter, again from its key whenever it is asked for.

    Args:
        options: the kind of noise, and what it needs.
        tangents: how many, and of what noise where it is full.
    """

    def __init__(self, options: WeightNoiseOptions, tangents: Tangents) -> None:
        self.options, self.tangents = options, tangents
        self.untrained: dict[str, int] = {}
        """By the parameter's name, the row that has no noise."""

    def draw(self, rng: StepRng, name: str, part: range, parameter: Tensor) -> Tensor:
        """z_k of every k of `part`: [len(part), *shape of the parameter]."""
        drawn = self._drawn(rng, name, part, parameter)
        if name in self.untrained:
            drawn[:, self.untrained[name]] = 0
        return drawn

    def _drawn(self, rng: StepRng, name: str, part: range, parameter: Tensor) -> Tensor:
        kind, density = self.options.noise, self.options.density
        if kind == "sparse" and parameter.dim() > 1:
            chosen = self._fixed(rng).generator("weight-mask", name, parameter.device)
            mask = torch.rand(parameter.shape, generator=chosen, device=parameter.device) < density
            return self._full(rng, name, part, parameter).mul_(mask / math.sqrt(density))
        if kind in ("full", "sparse") or parameter.dim() < 2:
            return self._full(rng, name, part, parameter)
        rows = parameter.flatten(1)
        low_rank = kind == "low-rank"
        drawn = self._low_rank(rng, name, part, rows) if low_rank else self._in_subspace(rng, name, part, rows)
        return drawn.view(len(part), *parameter.shape)

    def _full(self, rng: StepRng, name: str, part: range, parameter: Tensor) -> Tensor:
        return self.tangents.noise(rng, "weight", name, part, tuple(parameter.shape), parameter)

    def _low_rank(self, rng: StepRng, name: str, part: range, rows: Tensor) -> Tensor:
        m, n = rows.shape
        factors = self.tangents.noise(rng, "weight", name, part, (m + n, self.options.rank), rows)
        return factors[:, :m] @ factors[:, m:].mT / math.sqrt(self.options.rank)

    def _in_subspace(self, rng: StepRng, name: str, part: range, rows: Tensor) -> Tensor:
        r, fixed = min(self.options.rank, *rows.shape), self._fixed(rng)
        left, right = (
            orthonormal(fixed.normal(f"weight-{side}", name, (size, r), rows))
            for side, size in zip(("left", "right"), rows.shape, strict=True)
        )
        z = self.tangents.noise(rng, "weight", name, part, (r, r), rows)
        return left @ z @ right.mT * (math.sqrt(rows.numel()) / r)

    def _fixed(self, rng: StepRng) -> StepRng:
        """The streams of the last redraw."""
        return rng.streams.at(rng.step - rng.step % self.options.redraw)
