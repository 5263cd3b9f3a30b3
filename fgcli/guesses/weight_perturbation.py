"""Weight perturbation: the vanilla forward gradient (Baydin et al. 2022, arXiv:2202.08587)."""

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

from fgcli.extend.options import Options
from fgcli.gradient.dual import directional_derivative, dual_forward, lacks_layer_formulas
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.randomness import StepRng
from fgcli.gradient.sites import SiteModule, linear_part, named_site_modules, refuse_mixing_layers


class WeightPerturbation:
    """One direction v ~ N(0, I) per parameter for the whole batch; the estimate is (Σ_b δ_b) v. Unbiased.

    Parameters are dual numbers wherever the model uses them: tied, or outside their own layer, too. Only where the
    device has no forward-mode formula for layers are the tangents of Linear and Conv2d formed by hand, each in its
    layer alone.
    """

    def __init__(self, options: Options) -> None:
        self._sites: dict[str, SiteModule] = {}

    def bind(self, model: nn.Module, example: Tensor) -> Coverage:
        refuse_mixing_layers(model)
        self._sites = named_site_modules(model)
        return Coverage(sites=())

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        refuse_mixing_layers(model)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        with torch.no_grad(), forward_ad.dual_level():
            directions = {name: rng.normal("weight", name, tuple(p.shape), p) for name, p in parameters.items()}
            along = {id(parameters[name]): v for name, v in directions.items()}
            sites = self._sites if lacks_layer_formulas(batch.inputs.device) else {}
            of_sites = {id(p) for module in sites.values() for p in module.parameters(recurse=False)}
            rest = {name: v for name, v in directions.items() if id(parameters[name]) not in of_sites}

            def perturb(name: str, x: Tensor, _: Tensor) -> Tensor:
                module = self._sites[name]
                weight = along.get(id(module.weight))
                weight = torch.zeros_like(module.weight) if weight is None else weight
                return linear_part(module, x, weight, along.get(id(module.bias)))

            outputs = dual_forward(model, batch.inputs, sites, perturb, rest)
            losses, delta = directional_derivative(loss(outputs, batch.targets))
            total = delta.sum()
            gradients = {name: total * v for name, v in directions.items()}
        return Estimate(losses, gradients, delta)

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass
