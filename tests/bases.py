"""The estimate at a site from each tangent of a basis there: unbiased, exactly, if they sum up to the gradient."""

from typing import Any

import torch
from torch import Tensor

from fgcli.gradient.draws import Kept
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.guess import Isotropic, Layer
from fgcli.gradient.local_losses import LocalLosses
from fgcli.gradient.randomness import Streams


def summed_over_a_basis(model: LocalLosses, loss: Loss, batch: Batch, name: str) -> tuple[Tensor, Tensor]:
    """Σ_j δ(e_j) ∘ e_j over the unit tangents e_j at a site's output alone, and the gradient there by autograd."""
    estimator = GuessEstimator(Isotropic(), output_gradient="exact")
    estimator.bind(model, batch.inputs)
    taken: list[Any] = []
    hook = model.plain.get_submodule(name).register_forward_hook(lambda _module, _inputs, s: taken.append(s))
    mean = loss(model(batch.inputs), batch.targets).mean()
    hook.remove()
    columns: list[Tensor] = []

    def basis(layer: Layer, *_: Any) -> Kept:
        assert layer.output is not None
        y = torch.zeros(len(layer.output), layer.dim, dtype=torch.double)
        y[:, len(columns)] = float(layer.name == name)
        return Kept(y.view(1, *layer.output.shape))

    for guesser in estimator._guessers.values():
        setattr(guesser, "draw", basis)  # noqa: B010
    for _ in range(taken[0][0].numel()):
        found: Any = estimator.drawn(model, loss, batch, Streams(3).at(7))[1][name]
        columns.append(found)
    return torch.stack(columns).sum(0), torch.autograd.grad(mean, taken[0])[0]
