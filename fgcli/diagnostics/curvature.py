"""The Hessian and the Gauss–Newton matrix of the mean loss in weights, matrix-free.

H v by differentiating the gradient once more; G v = Jᵀ H_out J v, with J v from the derivative of Jᵀu in u. The top-k
eigenvectors of either come from Lanczos iterations; nothing of size parameters × parameters is ever made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Loss
from fgcli.spectra.eigenvectors import leading_eigenvectors

Matrix = Literal["hessian", "gauss-newton"]
Product = Callable[[Tensor], Tensor]
Part = Callable[[list[Tensor], Tensor, Loss, Tensor, int], Product]
"""(weights, a chunk's outputs, loss, its targets, samples of the batch) -> the chunk's share of a product."""
CHUNK = 1024  # samples whose graph is recorded in one piece


@dataclass(frozen=True)
class Eigenspace:
    """Eigenvalues [k], descending, and orthonormal eigenvectors [parameters, k], the latter in the weights' dtype."""

    values: Tensor
    vectors: Tensor

    def overlaps(self, vector: Tensor) -> Tensor:
        """‖V_kᵀ v‖ / ‖v‖ for the first 1, 2, … k eigenvectors: [k]. NaN for v = 0."""
        v = vector.detach().to(self.vectors)
        coordinates = (self.vectors.T @ (v / v.norm())).cpu().double()
        return coordinates.square().cumsum(0).clamp_max(1).sqrt()


def top_eigenspace(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    names: Sequence[str],
    k: int,
    matrix: Matrix,
    start: Tensor | None = None,
) -> Eigenspace:
    """Of the block that belongs to the parameters `names`, flattened and joined in that order.

    `start` is a guess at a vector of the space, from an earlier one, say.
    """
    parameters = [dict(model.named_parameters())[name] for name in names]
    product = hessian_product if matrix == "hessian" else gauss_newton_product
    dimension = sum(parameter.numel() for parameter in parameters)
    if start is None:
        start = torch.randn(dimension, generator=torch.Generator().manual_seed(0))
    apply = product(model, loss, batch, names)
    return Eigenspace(*leading_eigenvectors(apply, min(k, dimension), start.to(parameters[0])))


def _product(of_part: Part, model: nn.Module, loss: Loss, batch: Batch, names: Sequence[str]) -> Product:
    """The sum of a product's parts, one a chunk of the batch."""
    parts: list[Product] = []
    with torch.enable_grad():
        for some in _chunks(batch):
            copies = _copies(model, names)
            outputs = torch.func.functional_call(model, copies, (some.inputs,))
            parts.append(of_part(list(copies.values()), outputs, loss, some.targets, len(batch.inputs)))
    return lambda v: torch.stack([part(v) for part in parts]).sum(0)


def _hessian_part(weights: list[Tensor], outputs: Tensor, loss: Loss, targets: Tensor, samples: int) -> Product:
    share = loss(outputs, targets).sum() / samples
    gradients = torch.autograd.grad(share, weights, create_graph=True, materialize_grads=True)
    return partial(_pulled_back, _flat(gradients), weights)


def _gauss_newton_part(weights: list[Tensor], outputs: Tensor, loss: Loss, targets: Tensor, samples: int) -> Product:
    dummy = torch.zeros_like(outputs, requires_grad=True)
    pulled = torch.autograd.grad(outputs, weights, dummy, create_graph=True, materialize_grads=True)  # Jᵀu, linear in u
    free = outputs.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(free, targets).sum() / samples, free, create_graph=True)

    def apply(v: Tensor) -> Tensor:
        pushed = _pulled_back(_flat(pulled), [dummy], v).view_as(outputs)
        curved = _pulled_back(slope.flatten(), [free], pushed.flatten()).view_as(outputs)
        return _pulled_back(outputs.flatten(), weights, curved.flatten())

    return apply


hessian_product = partial(_product, _hessian_part)
"""v -> H v over the parameters `names`, both flat."""
gauss_newton_product = partial(_product, _gauss_newton_part)
"""v -> Jᵀ H_out J v over the parameters `names`, both flat: the Hessian without the network's own curvature."""


def _pulled_back(values: Tensor, sources: list[Tensor], v: Tensor) -> Tensor:
    """(∂ values / ∂ sources)ᵀ v, flat; 0 where the values do not depend on the sources."""
    if not values.requires_grad:
        return torch.cat([torch.zeros_like(source).flatten() for source in sources])
    return _flat(torch.autograd.grad(values, sources, v, retain_graph=True, materialize_grads=True))


def _copies(model: nn.Module, names: Sequence[str]) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    return {name: parameters[name].detach().requires_grad_() for name in names}


def _chunks(batch: Batch) -> list[Batch]:
    pairs = zip(batch.inputs.split(CHUNK), batch.targets.split(CHUNK), strict=True)
    return [Batch(inputs, targets) for inputs, targets in pairs]


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
