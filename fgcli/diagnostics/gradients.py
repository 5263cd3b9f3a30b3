"""True gradients, by reverse mode: what diagnostics hold a guess against. No estimator uses them."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fgcli.gradient.dual import hooks
from fgcli.gradient.estimator import Batch, Loss


def site_gradients(model: nn.Module, loss: Loss, batch: Batch, sites: Sequence[str]) -> dict[str, Tensor]:
    """g_{i,b} = ∂L/∂s_{i,b} of the mean loss L at every site, 1/batch included: [batch, *shape of s_i], by site."""
    modules = dict(model.named_modules())
    probes: dict[str, Tensor] = {}

    def probe(name: str, _: nn.Module, __: tuple[Tensor, ...], s: Tensor) -> Tensor:
        probes[name] = torch.zeros_like(s).requires_grad_()
        return s + probes[name]

    with torch.enable_grad(), hooks({name: modules[name] for name in sites}, probe):
        mean = loss(model(batch.inputs), batch.targets).mean()
        gradients = torch.autograd.grad(mean, [probes[name] for name in sites], materialize_grads=True)
    return dict(zip(sites, gradients, strict=True))


def parameter_gradients(model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the mean loss for every parameter that requires grad, by name."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        mean = loss(model(batch.inputs), batch.targets).mean()
        gradients = torch.autograd.grad(mean, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, gradients, strict=True))


def squares_per_sample(model: nn.Module, loss: Loss, batch: Batch, names: Sequence[str]) -> Tensor:
    """‖∂L_b/∂θ‖² over the parameters `names` together, of each sample's share L_b of the mean loss: [batch]."""
    if not names:
        return batch.inputs.new_zeros(len(batch.inputs))
    parameters = dict(model.named_parameters())

    def share(chosen: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, chosen, (x.unsqueeze(0),))
        return loss(outputs, target.unsqueeze(0)).sum() / len(batch.inputs)

    chosen = {name: parameters[name].detach() for name in names}
    of_one = partial(torch.func.grad(share), chosen)
    with torch.enable_grad():
        gradients = torch.func.vmap(of_one, randomness="error")(batch.inputs, batch.targets)
    return torch.stack([g.detach().flatten(1).square().sum(1) for g in gradients.values()]).sum(0)
