"""Overlap of the true gradient with small subspaces (Eq. 19 of the W̃⊥ paper), for every k at once.

o_k = ‖V_kᵀ g‖ / ‖g‖. Eq. 19 prints U_k; the subspace of Im(W̃ᵀ) that it means is spanned by V_k. Bases, the first
three by sample with g = ∂L/∂s:

upstream       V_k of the sample's own upstream Jacobian W̃_b = W M_b, by singular value: the paper's
shared         span(M_b V_k), V_k of the unmasked W: where the solver of that name guesses
random         a k-dimensional space drawn uniformly: the control, o_k² = k/d in the mean
hessian        the k leading eigenvectors of the loss's Hessian in weights, with g = ∂L/∂W (Gur-Ari et al. 2018,
               arXiv:1812.04754): of each layer's own block, and of the whole network
gauss-newton   as hessian, with the Gauss–Newton matrix
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fgcli.diagnostics.curvature import top_eigenspace
from fgcli.diagnostics.gradients import parameter_gradients, site_gradients
from fgcli.diagnostics.statistics import Measured, over_batches
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.look import look
from fgcli.gradient.passes import PlainPass, Seen
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.upstream import LinearUpstream
from fgcli.gradient.uses import run
from fgcli.spectra.nested import nested_coordinates, principal_coordinates

SampleBasis = Literal["upstream", "shared", "random"]
WeightBasis = Literal["hessian", "gauss-newton"]
NETWORK = "network"


@dataclass(frozen=True)
class Overlap:
    """One layer and batch: the overlap for k = 1, 2, …"""

    overlap: Tensor
    """Mean over the samples: [k]."""
    squared: Tensor
    """Mean of its square, the share of ‖g‖² in the subspace: [k]."""
    dimension: int
    """d, of the space that g lies in."""
    left_out: int = 0
    """Samples whose g is 0."""

    def up_to(self, k: int | None) -> "Overlap":
        """The first k, or all of them."""
        return replace(self, overlap=self.overlap[:k], squared=self.squared[:k])


def sample_overlaps(model: nn.Module, loss: Loss, batch: Batch, basis: SampleBasis, rng: StepRng) -> dict[str, Overlap]:
    """By site below the output layer. Draws for `random` alone.

    Raises ModelRefused, naming the site, for a model that is no chain of Linear layers and elementwise activations.
    """
    network = look(model, batch.inputs)
    upstreams = upstream_jacobians(model, network, batch.inputs)
    gradients = site_gradients(model, network, loss, batch)
    return {
        name: _of_coordinates(_coordinates(basis, upstream, gradients[name], rng, name), gradients[name])
        for name, upstream in upstreams.items()
    }


def weight_overlaps(model: nn.Module, loss: Loss, batch: Batch, matrix: WeightBasis, k: int) -> dict[str, Overlap]:
    """By parameter that requires grad, each with its own block, and for all of them together under NETWORK."""
    gradients = parameter_gradients(model, loss, batch)
    groups = {name: [name] for name in gradients} | {NETWORK: list(gradients)}
    found = {}
    for label, names in groups.items():
        gradient = torch.cat([gradients[name].flatten() for name in names])
        left_out = int(gradient.norm() == 0)
        if left_out:
            overlap = torch.zeros(min(k, gradient.numel()), dtype=torch.float64)
        else:
            overlap = top_eigenspace(model, loss, batch, names, k, matrix).overlaps(gradient)
        found[label] = Overlap(overlap, overlap.square(), gradient.numel(), left_out)
    return found


def upstream_jacobians(model: nn.Module, network: Network, inputs: Any) -> dict[str, LinearUpstream]:
    """W̃ of every site but the output layer, for these inputs. ModelRefused where it is no matrix behind a slope."""
    weights = dict(model.named_parameters())
    below = [site for site in network.guessed if not site.is_output]
    for site in below:
        if site.link is None:
            raise ModelRefused(
                f"site '{site.name}' {site.reason}; the overlap with subspaces of the upstream Jacobian takes a chain "
                "of linear layers and elementwise activations"
            )
    found: dict[str, LinearUpstream] = {}

    def show(site: Site, _: Seen, s: Tensor) -> None:
        if site in below and site.link is not None:
            found[site.name] = LinearUpstream(weights[site.link.next_weight].detach(), site.link.slope(s))

    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        run(model, inputs, PlainPass(network, show, network.samples(inputs)))
    return found


def _coordinates(basis: SampleBasis, upstream: LinearUpstream, g: Tensor, rng: StepRng, site: str) -> Tensor:
    """Of g [batch, d] in the basis: [batch, r], r the largest k."""
    if basis == "upstream":
        return principal_coordinates(upstream.weight, upstream.slope, g)
    r = min(upstream.weight.shape)
    if basis == "shared":
        _, _, vh = torch.linalg.svd(upstream.weight.cpu().double(), full_matrices=False)
        return nested_coordinates(vh.T, upstream.slope, g)
    # The coordinates of a unit vector in a uniformly drawn orthonormal basis are themselves a uniform unit vector.
    direction = rng.normal("random-basis", site, tuple(g.shape), g)
    return (direction / direction.norm(dim=1, keepdim=True) * g.norm(dim=1, keepdim=True))[:, :r]


def _of_coordinates(coordinates: Tensor, g: Tensor) -> Overlap:
    squares = g.cpu().double().square().sum(1)
    present = squares > 0
    # Rounding may leave a sum just above the whole.
    shares = (coordinates.cpu().double().square().cumsum(1)[present] / squares[present].unsqueeze(1)).clamp_max(1)
    if not present.any():
        shares = torch.zeros(1, coordinates.shape[1], dtype=torch.float64)
    return Overlap(shares.sqrt().mean(0), shares.mean(0), g.shape[1], int((~present).sum()))


def marks(ranks: int) -> Sequence[int]:
    """The k that a table shows out of 1 … ranks: 1, 2, 5, 10, 20, 50, … and the last."""
    steps = [lead * 10**power for power in range(6) for lead in (1, 2, 5)]
    return [k for k in steps if k < ranks] + [ranks]


@dataclass(frozen=True)
class LayerOverlap:
    """One layer, over the batches: for k = 1, 2, …"""

    layer: str
    overlap: list[Measured]
    squared: list[Measured]
    dimension: int
    left_out: int
    """Samples whose g was 0, in all batches together."""


def averaged(batches: Sequence[dict[str, Overlap]]) -> list[LayerOverlap]:
    """Means over batches of the same layers, with their standard errors."""

    def mean(curves: Sequence[Tensor]) -> list[Measured]:
        return [
            over_batches([Measured(value) for value in at_k]) for at_k in zip(*map(Tensor.tolist, curves), strict=True)
        ]

    layers = []
    for name, first in batches[0].items():
        ours = [batch[name] for batch in batches]
        curves = mean([one.overlap for one in ours]), mean([one.squared for one in ours])
        layers.append(LayerOverlap(name, *curves, first.dimension, sum(one.left_out for one in ours)))
    return layers
