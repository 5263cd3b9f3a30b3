"""SOFO: a Gauss-Newton step in a random subspace, from K tangents of the network's output.

Yu et al. 2024, "Second-order forward-mode optimization of recurrent neural networks for neuroscience" (NeurIPS). V has
K orthonormal random directions of all parameters as columns, J is the Jacobian of the outputs of the batch, H the
Hessian of the mean loss by the outputs, G = JᵀHJ:

    step = V (VᵀGV + λ s_max I)⁻¹ Vᵀg        s_max the largest eigenvalue of VᵀGV

Forward mode gives JV, K tangents of the output; VᵀGV = (JV)ᵀH(JV) and Vᵀg = (JV)ᵀe need no more of the network. H times
a tangent is a product with the loss alone, so that any twice differentiable loss of the outputs will do, one in which
samples see each other too.

Cost: a dual pass with K tangents of the weights, the memory of K times the weights for V, and of K outputs.

What is not true of it: that its gradients estimate the gradient. They are a step: use it with `--optimizer sgd`, whose
learning rate near 1 is a whole Gauss-Newton step; Adam's scaling would undo it. In the span of K directions of n it
sees K / n of the gradient's square on average, so that it needs K large, or curvature that is low in rank. With
piecewise linear losses (L1) H is 0, and there is no step.

The authors draw the directions as here, or learn a sketch of G to choose them; that is not here.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fgcli.gradient.allocator import keep_freed_memory
from fgcli.gradient.buffers import untouched
from fgcli.gradient.checks import FORWARD_MODE, refuse
from fgcli.gradient.errors import LossRefused, ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss, Stateless
from fgcli.gradient.look import few
from fgcli.gradient.loss import differentiable, refuse_others
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.precision import full_precision, wide
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.tangents import Tangents
from fgcli.methods.options import SofoOptions
from fgcli.methods.weight_perturbation import tangents_together, untrained_rows


class Sofo(Stateless):
    """The damped Gauss-Newton step in the span of K random directions."""

    def __init__(self, options: SofoOptions) -> None:
        self.number, self.damping = options.tangents, options.damping
        self.tangents = Tangents(options.tangents)

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        refuse(model, FORWARD_MODE)
        untrained_rows(model, example)
        keep_freed_memory()
        parameters = _trained(model)
        n = sum(one.numel() for one in parameters.values())
        if self.number > n:
            raise OptionRefused(f"tangents is {self.number}; it must be at most {n}, the number of weights: lower it")
        device, inputs = next(iter(parameters.values())).device, few(example, 2)
        v = {name: torch.zeros(1, *one.shape, dtype=one.dtype, device=one.device) for name, one in parameters.items()}
        try:
            with torch.no_grad(), untouched(model, device):
                tangents_together(model, Batch(inputs, None), parameters, v)
        except (RuntimeError, NotImplementedError) as cause:
            text = str(cause).splitlines()[0][:160]
            raise ModelRefused(
                f"torch.func cannot carry {self.number} tangents through it ({text}): use wperp"
            ) from cause
        return Coverage(sites=())

    @torch.no_grad()
    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        """As Estimator has it; the gradients are the step."""
        v = self.directions(rng, _trained(model))
        outputs, moved = tangents_together(model, batch, _trained(model), v)
        moved = [wide(one) for one in moved]
        once = [wide(one).detach().requires_grad_() for one in leaves(outputs)]
        with torch.enable_grad(), full_precision(batch.device):
            losses = differentiable(loss(rebuilt(outputs, once), batch.targets))
            refuse_others(losses, once)
            e = torch.autograd.grad(losses.mean(), once, create_graph=True, allow_unused=True, materialize_grads=True)
            if not any(one.requires_grad for one in e):
                raise LossRefused("the loss has no curvature (it is piecewise linear), which sofo needs: use another")
            curved = [self._curved(e, once, [one[k] for one in moved]) for k in range(self.number)]
        slopes = sum(torch.einsum("k...,...->k", t, one.detach()) for t, one in zip(moved, e, strict=True))
        rows = [torch.cat([h.flatten() for h in one]) for one in curved]
        tangents = torch.cat([one.flatten(1) for one in moved], 1)
        c = self.coefficients(tangents @ torch.stack(rows).T, torch.as_tensor(slopes))
        return Estimate(losses.detach(), {name: torch.tensordot(c.to(one), one, dims=1) for name, one in v.items()})

    def _curved(self, e: tuple[Tensor, ...], outputs: list[Tensor], moved: list[Tensor]) -> tuple[Tensor, ...]:
        """H times one tangent of the outputs."""
        inner = torch.stack([(one * t).sum() for one, t in zip(e, moved, strict=True)]).sum()
        return torch.autograd.grad(inner, outputs, retain_graph=True, allow_unused=True, materialize_grads=True)

    def coefficients(self, gram: Tensor, slopes: Tensor) -> Tensor:
        """(VᵀGV + λ s_max I)⁻¹ Vᵀg.

        Args:
            gram: VᵀGV [K, K].
            slopes: Vᵀg [K].

        Returns:
            [K], in float64 on the CPU; 0 where there is no curvature.
        """
        gram, slopes = (one.double().cpu() for one in (gram, slopes))
        values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
        values = values.clamp_min(0)  # of a loss that is not convex in the outputs, some may be below
        damped = values + max(self.damping, 1e-12) * values[-1]
        return vectors @ torch.where(damped > 0, vectors.T @ slopes / damped, 0.0)

    def directions(self, rng: StepRng, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """V: K directions [K, *shape] by parameter, orthonormal over all parameters together."""
        drawn = {
            name: self.tangents.noise(rng, "weight", name, range(self.number), tuple(one.shape), one)
            for name, one in parameters.items()
        }
        gram = sum(one.flatten(1).double() @ one.flatten(1).double().T for one in drawn.values())
        factor = torch.linalg.cholesky(torch.as_tensor(gram))
        return {
            name: torch.linalg.solve_triangular(factor.to(one), one.flatten(1), upper=False).view(one.shape)
            for name, one in drawn.items()
        }


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach() for name, one in model.named_parameters() if one.requires_grad}
