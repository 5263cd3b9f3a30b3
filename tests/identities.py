"""What must hold of every single estimate, whatever its noise is, between an estimator and autograd.

1. δ_b = Σ_i ⟨g_ib, y_ib⟩ for every tangent: the derivative along the guesses is that of the loss.
2. The weights' gradients are the vjp of every use with ĝ = Σ_k c_k y_k.
3. g_i = W̃_iᵀ (g_next, e), the chain rule, and ⟨u, W̃v⟩ = ⟨W̃ᵀu, v⟩.
4. Feedback without learned matrices is W̃ᵀ of W̃ᵀ of the exact gradient at the last sites, and a correction is the
   guess's estimate of what it misses.

Each function gives the largest relative error.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from fgcli.gradient.draws import joined
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Estimator, Loss
from fgcli.gradient.loss import output_gradient
from fgcli.gradient.nested import leaves, rebuilt
from fgcli.gradient.plain import math_attention
from fgcli.gradient.randomness import Streams
from fgcli.gradient.sites import Network, Site
from fgcli.gradient.step import Derivatives
from fgcli.gradient.upstream import CutNetwork
from fgcli.gradient.uses import Outputs, Pass, Use, call, run

RNG = Streams(3).at(7)


class Attached(Pass):
    """A forward that records a graph; `cut` at every use, where it goes on detached."""

    def __init__(self, *, cut: bool) -> None:
        self.cut = cut
        self.given: dict[str, list[Tensor]] = {}

    def visit(self, use: Use) -> Outputs:
        outputs = use.call(lambda value: value, weights=lambda value: value)
        self.given[use.name] = leaves(outputs)
        return rebuilt(outputs, [one.detach() if self.cut else one.clone() for one in leaves(outputs)])

    def stand_in(self, name: str, parameter: Tensor) -> Tensor:
        return parameter.detach() if self.cut else parameter


def _trained(model: nn.Module) -> dict[str, Tensor]:
    return {name: one for name, one in model.named_parameters() if one.requires_grad}


def _error(found: Tensor, expected: Tensor) -> float:
    scale = float(expected.norm())
    difference = float((found - expected).norm())
    return difference / scale if scale else difference


def backward(model: nn.Module, loss: Loss, batch: Batch) -> dict[str, Tensor]:
    """The gradients by autograd, of the forward that draws from seed 5."""
    torch.manual_seed(5)
    parameters = _trained(model)
    with math_attention():
        value = loss(call(model, batch.inputs), batch.targets).mean()
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def _at_sites(model: nn.Module, loss: Loss, batch: Batch, network: Network) -> dict[str, Tensor]:
    """g [samples, *shape] of the guessed sites."""
    torch.manual_seed(5)
    attached = Attached(cut=False)
    outputs = run(model, batch.inputs, attached)
    value = loss(outputs, batch.targets).mean()
    flat = [one for some in attached.given.values() for one in some if one.requires_grad]
    by_id = dict(zip(map(id, flat), torch.autograd.grad(value, flat, allow_unused=True), strict=True))
    samples = network.samples(batch.inputs)
    found = {}
    for name, some in attached.given.items():
        gradients = [torch.zeros_like(one) if by_id.get(id(one)) is None else by_id[id(one)] for one in some]
        found[name] = network.sites[name].by_sample(gradients, samples).detach()
    return found


def _weights(model: nn.Module, batch: Batch, network: Network, at: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Σ over the uses of their vjp with `at`, by autograd."""
    torch.manual_seed(5)
    attached = Attached(cut=True)
    run(model, batch.inputs, attached)
    parameters, total = _trained(model), []
    for name, one in at.items():
        shapes = [s.shape for s in attached.given[name]]
        pairs = zip(attached.given[name], network.sites[name].natural(one, shapes), strict=True)
        total += [(s * g).sum() for s, g in pairs]
    value = torch.stack(total).sum()
    found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def of_estimate(estimator: GuessEstimator, model: nn.Module, loss: Loss, batch: Batch) -> float:
    """1 and 2, for an estimator that is bound, without feedback."""
    network = estimator.bound
    g = _at_sites(model, loss, batch, network)
    torch.manual_seed(5)
    step, found = estimator.dual_pass(model, loss, batch, RNG)
    draws = {name: joined(some).all() for name, some in step.draws.items()}
    tail = backward(model, loss, batch)
    beside = [(tail[name] * direction).sum() for name, direction in step.directions.items()]
    errors = [] if network.beside else _of_derivatives(estimator, found, draws, g, beside)
    exact = {name: gradient.reshape(g[name].shape) for name, (_, gradient) in step.last.items()}
    errors += [_error(gradient, g[name]) for name, gradient in exact.items()]
    expected = _weights(model, batch, network, exact | _estimates(estimator, found, draws))
    for name, direction in step.directions.items():
        expected[name] = expected[name] + found.along.sum() * direction
    torch.manual_seed(5)
    gradients = estimator.estimate(model, loss, batch, RNG).gradients
    return max([*errors, _compared(gradients, expected)])


def _shared(network: Network, draws: Mapping[str, Tensor]) -> set[str]:
    """The sites that have one guess for the batch."""
    return {name for name in draws if not (network.sites[name].has_samples or network.mixes)}


def _of_derivatives(
    estimator: GuessEstimator,
    found: Derivatives,
    draws: Mapping[str, Tensor],
    g: Mapping[str, Tensor],
    beside: Sequence[Tensor] = (),
) -> list[float]:
    """1: δ against the products of the guesses with g, and of the directions with the gradient in `beside`."""
    shared = _shared(estimator.bound, draws)
    along = sum([*beside, *((g[name] * draws[name][0]).sum() for name in shared)], torch.zeros(()))
    parts = [torch.einsum("kbd,bd->bk", y.flatten(2), g[n].flatten(1)) for n, y in draws.items() if n not in shared]
    delta = torch.stack(parts).sum(0)
    alone = not (beside or shared)
    if estimator.tangents.single:
        return [_error(found.delta.sum(), delta.sum() + along), *([_error(found.delta, delta)] if alone else [])]
    return [_error(found.delta, delta), *([] if alone else [_error(found.along.sum(), along)])]


def _estimates(estimator: GuessEstimator, found: Derivatives, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Σ_k c_k y_k by site."""
    shared, single = _shared(estimator.bound, draws), estimator.tangents.single
    at = {}
    for name, y in draws.items():
        if name in shared:
            at[name] = y[0] * (found.coefficients if single else found.along).sum()
        else:
            at[name] = torch.einsum("bk,kbd->bd", found.coefficients, y.flatten(2).to(found.coefficients)).view_as(y[0])
    return at


def _compared(gradients: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Of all gradients together: one of them may be 0 but for rounding, as that of a key's bias is."""
    rest = {name: one for name, one in expected.items() if name not in gradients}
    if any(bool(one.any()) for one in rest.values()):
        return float("inf")
    names = list(gradients)
    found = torch.cat([gradients[name].flatten() for name in names])
    return _error(found, torch.cat([expected[name].flatten() for name in names]))


def of_weight_perturbation(estimator: Estimator, model: nn.Module, loss: Loss, batch: Batch) -> float:
    """⟨g, ĝ⟩ = mean_k δ_k², as ĝ = mean_k δ_k v_k."""
    g = backward(model, loss, batch)
    torch.manual_seed(5)
    estimate = estimator.estimate(model, loss, batch, RNG)
    delta = estimate.directional_derivative
    assert delta is not None
    squares = delta.sum(0).square().mean() if delta.dim() > 1 else delta.sum().square()
    inner = sum(((g[name] * one).sum() for name, one in estimate.gradients.items()), torch.zeros(()))
    return _error(inner, squares)


def of_upstream(model: nn.Module, loss: Loss, batch: Batch, network: Network) -> float:
    """3, at every guessed site."""
    g, cut, e = _cut(model, loss, batch, network)
    errors = [0.0]
    for site in network.guessed:
        if site.is_output:
            continue
        upstream = cut.upstream(site)
        reached = g[site.name].flatten(1) if site.has_samples else g[site.name].reshape(1, -1)
        u = _above(cut, site, g, e)
        errors.append(_error(upstream.apply_transpose(u), reached))
        v, w = torch.randn(len(u), upstream.input_dim).to(u), torch.randn_like(u)
        one, other = (upstream.apply(v) * w).sum(), (upstream.apply_transpose(w) * v).sum()
        errors.append(float((one - other).abs() / (w.norm() * upstream.apply(v).norm()).clamp_min(1e-30)))
    return max(errors)


def of_feedback(estimator: GuessEstimator, model: nn.Module, loss: Loss, batch: Batch) -> float:
    """4 and 2, for feedback=local with feedback_learning=none."""
    network, feedback = estimator.bound, estimator.feedback
    assert feedback is not None
    g, cut, e = _cut(model, loss, batch, network)
    sites = network.sites.values()
    exact = {one.name: g[one.name] for one in sites if one.is_output}
    zero = {name: torch.zeros_like(one) for name, one in g.items()}

    def swept(ahead: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for site in sites:
            if site.reaches or site.reaches_output:
                u = _above(cut, site, ahead, e)
                found[site.name] = cut.upstream(site).apply_transpose(u).view_as(g[site.name])
        return found

    once = swept(zero | exact)
    b = swept(zero | exact | {name: once[name] for name in feedback.places(network)})
    errors, at = [0.0], {one.name: b[one.name] for one in network.guessed}
    if feedback.correction:
        torch.manual_seed(5)
        step, before = estimator.dual_pass(model, loss, batch, RNG)
        found = step.corrected(before, at)
        draws = {name: joined(some).all() for name, some in step.draws.items()}
        counted = replace(found, delta=before.delta - found.delta, along=before.along - found.along)
        errors = [*_of_derivatives(estimator, before, draws, g), *_of_derivatives(estimator, counted, draws, at)]
        for name, one in _estimates(estimator, found, draws).items():
            at[name] = at[name] + feedback.correction * one
    torch.manual_seed(5)
    estimate = estimator.estimate(model, loss, batch, RNG)
    expected = _weights(model, batch, network, at)
    at_sites = {name for one in network.guessed for name in one.parameters} - set(network.beside)
    gradients = {name: one for name, one in estimate.gradients.items() if name in at_sites}
    return max([*errors, _compared(gradients, {name: one for name, one in expected.items() if name in at_sites})])


def _cut(
    model: nn.Module, loss: Loss, batch: Batch, network: Network
) -> tuple[dict[str, Tensor], CutNetwork, list[Tensor]]:
    """g by site, the network cut at its uses, and e by output."""
    g = _at_sites(model, loss, batch, network)
    torch.manual_seed(5)
    cut = CutNetwork(model, batch.inputs, network)
    samples = network.samples(batch.inputs)
    of_loss = output_gradient(loss, cut.outputs, batch.targets, network.output_layouts, samples)
    return g, cut, [one.reshape(samples, -1) for one in of_loss.parts]


def _above(cut: CutNetwork, site: Site, ahead: Mapping[str, Tensor], e: list[Tensor]) -> Tensor:
    """[samples, d_out]: what is ahead of all that a site reaches next."""
    samples = cut.samples if site.has_samples else 1
    found = [
        ahead[name].reshape(samples, -1)
        for name in site.reaches
        if name in cut.ends and any(one.requires_grad for one in cut.ends[name].tensors)
    ]
    if site.reaches_output:
        outputs = leaves(cut.outputs)
        found += [one.reshape(samples, -1) for one, output in zip(e, outputs, strict=True) if output.requires_grad]
    return torch.cat(found, 1)
