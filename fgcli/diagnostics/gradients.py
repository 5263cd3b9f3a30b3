"""True gradients, by reverse mode: what diagnostics hold a guess against. No estimator uses them."""

from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from fgcli.gradient.estimator import Batch, Loss
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.plain import math_attention
from fgcli.gradient.sites import Network
from fgcli.gradient.uses import Outputs, Pass, Use, call, run


def site_gradients(
    model: nn.Module, network: Network, loss: Loss, batch: Batch, names: Collection[str] | None = None
) -> dict[str, Tensor]:
    """g_{i,b} = ∂L/∂s_{i,b} of the mean loss L at every site that has a guess, 1/batch included.

    Args:
        model: the model.
        network: what `look` found of it.
        loss: as estimators take it.
        batch: the samples.
        names: of the sites asked for; None: all.

    Returns:
        By site, [samples, *shape of s_i].
    """
    probes = _Probes()
    outputs = run(model, batch.inputs, probes)
    with torch.enable_grad():
        mean = loss(outputs, batch.targets).mean()
    sites = [site for site in network.guessed if site.name in probes.added and (names is None or site.name in names)]
    flat = [one for site in sites for one in probes.added[site.name]]
    found = iter(torch.autograd.grad(mean, flat, materialize_grads=True, allow_unused=True))
    samples = network.samples(batch.inputs)
    return {site.name: site.by_sample([next(found) for _ in probes.added[site.name]], samples) for site in sites}


class _Probes(Pass):
    """A pass that adds 0 to what each use gives, with a graph of what follows."""

    def __init__(self) -> None:
        self.added: dict[str, list[Tensor]] = {}

    def visit(self, use: Use) -> Outputs:
        outputs = use.call(lambda value: value)
        self.added[use.name] = [torch.zeros_like(one, requires_grad=True) for one in leaves(outputs)]
        pairs = zip(leaves(outputs), self.added[use.name], strict=True)
        return rebuilt(outputs, [one + probe for one, probe in pairs])


def parameter_gradients(model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The gradient of the mean loss for every parameter that requires grad, by name."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with torch.enable_grad(), math_attention():
        mean = loss(call(model, batch.inputs), batch.targets).mean()
        gradients = torch.autograd.grad(mean, list(parameters.values()), materialize_grads=True, allow_unused=True)
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
