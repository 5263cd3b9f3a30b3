"""Upstream Jacobians of any network, held to jacrev and to the chain rule, in float64."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from exact import CPU, drawing, smooth
from networks import ANY, any_network, batch_for, chain, cross_entropy, site_gradients
from torch import Tensor, nn
from zoo import ZOO, inputs_of, made

from fgcli.diagnostics.gradients import site_gradients as any_site_gradients
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.look import look
from fgcli.gradient.randomness import Streams
from fgcli.gradient.sites import Network
from fgcli.gradient.upstream import CutNetwork, LinearUpstream, SegmentUpstream
from fgcli.methods.options import TransposeOptions
from fgcli.methods.transpose import Transpose


def upstreams(model: nn.Module, inputs: Tensor) -> Iterator[tuple[str, SegmentUpstream]]:
    network = look(model, inputs)
    cut = CutNetwork(model, inputs, network)
    for site in network.guessed:
        if not site.is_output:
            yield site.name, cut.upstream(site)


def direct_jacobians(model: nn.Module, network: Network, inputs: Tensor, site: str) -> dict[str, Tensor]:
    """∂s_j/∂s_i with all other sites' outputs held fixed, and ∂output/∂s_i: [batch, d_j, d_i], by jacrev through hooks.

    The model runs as it is, each site's output replaced by a constant once it is written down.
    """
    modules = {name: model.get_submodule(name) for name in network.sites}
    values: dict[str, Tensor] = {}

    def hooked(record: object) -> list[torch.utils.hooks.RemovableHandle]:
        return [
            module.register_forward_hook(lambda _, __, s, name=name: record(name, s))  # type: ignore[operator]
            for name, module in modules.items()
        ]

    def run(x: Tensor, record: object) -> Tensor:
        handles = hooked(record)
        try:
            return model(x)
        finally:
            for handle in handles:
                handle.remove()

    def keep(name: str, s: Tensor) -> None:
        values[name] = s.detach().clone()

    run(inputs, keep)

    def ends(s: Tensor) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def cut(name: str, own: Tensor) -> Tensor:
            seen[name] = own.clone().flatten(1)
            return s.clone() if name == site else values[name].clone()

        seen["output"] = run(inputs, cut).flatten(1)
        return {name: value for name, value in seen.items() if name != site}

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobians = torch.func.jacrev(ends)(values[site])
    batch = range(len(inputs))
    return {name: torch.stack([j[b, :, b].flatten(1) for b in batch]) for name, j in jacobians.items()}


ORDINARY = [name for name in ANY if name != "encoder"]  # its attention calls no module for its projections


@pytest.mark.parametrize("network", ORDINARY)
def test_upstream_jacobians_are_the_direct_partial_derivatives(network: str) -> None:
    model, batch = any_network(network)
    generator, found = torch.Generator().manual_seed(0), look(model, batch.inputs)
    for name, upstream in upstreams(model, batch.inputs):
        expected = direct_jacobians(model, found, batch.inputs, name)
        site = found.sites[name]
        ends = [*site.reaches, *(["output"] if site.reaches_output else [])]
        for end, jacobian in expected.items():
            assert (end in ends) or not jacobian.any()
        dense = torch.cat([expected[end] for end in ends], 1)
        torch.testing.assert_close(upstream.dense(), dense)
        assert (upstream.output_dim, upstream.input_dim) == dense.shape[1:]
        v = torch.randn(len(dense), upstream.input_dim, 2, generator=generator, dtype=torch.float64)
        u = torch.randn(len(dense), upstream.output_dim, 2, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(upstream.apply(v), dense @ v)
        torch.testing.assert_close(upstream.apply(v[..., 1]), (dense @ v)[..., 1])
        torch.testing.assert_close(upstream.apply_transpose(u), dense.mT @ u)
        torch.testing.assert_close(upstream.apply_transpose(u[..., 1]), (dense.mT @ u)[..., 1])


DOUBLE = [name for name, kind in ZOO.items() if kind.dtype == torch.float64]


@pytest.mark.parametrize("name", DOUBLE)
def test_in_the_zoo_products_with_the_transpose_are_those_of_the_transpose(name: str) -> None:
    """⟨u, W̃ v⟩ = ⟨W̃ᵀu, v⟩, a sample at a time, and both are those of the dense matrix."""
    model, inputs = made(name), inputs_of(name, 3)
    network = look(model, inputs)
    with drawing():
        cut = CutNetwork(model, inputs, network)
    generator = torch.Generator().manual_seed(0)
    for site in network.guessed:
        if site.is_output or site.name not in cut.going:
            continue
        upstream = cut.upstream(site)
        samples = len(cut.s(site))
        v = torch.randn(samples, upstream.input_dim, generator=generator, dtype=torch.float64)
        u = torch.randn(samples, upstream.output_dim, generator=generator, dtype=torch.float64)
        forward, back, dense = upstream.apply(v), upstream.apply_transpose(u), upstream.dense()
        scale = 1 + float(u.norm() * forward.norm())
        assert ((u * forward).sum(1) - (back * v).sum(1)).abs().max() <= 1e-12 * scale
        torch.testing.assert_close((dense @ v.unsqueeze(2)).squeeze(2), forward, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close((dense.mT @ u.unsqueeze(2)).squeeze(2), back, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", DOUBLE)
def test_in_the_zoo_the_gradient_lies_in_the_image_of_the_transpose(name: str) -> None:
    model, inputs = made(name), inputs_of(name, 3)
    network = look(model, inputs)
    with drawing():
        cut = CutNetwork(model, inputs, network)
    twin = copy.copy(model)
    with drawing():
        gradients = any_site_gradients(twin, network, smooth, Batch(inputs, None))
    for site in network.guessed:
        if site.is_output or site.name not in cut.going:
            continue
        dense, g = cut.upstream(site).dense(), gradients[site.name].flatten(1)
        inside = (torch.linalg.pinv(dense) @ (dense @ g.unsqueeze(2))).squeeze(2)
        torch.testing.assert_close(inside, g, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("network", ORDINARY)
def test_the_gradient_lies_in_the_image_of_the_transpose(network: str) -> None:
    model, batch = any_network(network)
    for name, upstream in upstreams(model, batch.inputs):
        g = site_gradients(model, batch, (name,))[name].flatten(1)
        assert (g.norm(dim=1) > 1e-6).any()
        basis = torch.linalg.pinv(upstream.dense()) @ upstream.dense()
        torch.testing.assert_close((basis @ g.unsqueeze(-1)).squeeze(-1), g, rtol=1e-8, atol=1e-12)


def test_what_is_reached_from_a_residual_stream() -> None:
    model, batch = any_network("attention")
    found = look(model, batch.inputs).sites
    assert {name: set(site.reaches) for name, site in found.items()} == {
        "embed": {"query", "key", "value", "inner", "head"},
        "query": {"out"},
        "key": {"out"},
        "value": {"out"},
        "out": {"inner", "head"},
        "inner": {"leave"},
        "leave": {"head"},
        "head": set(),
    }
    model, batch = any_network("past-all-sites")
    past = look(model, batch.inputs).sites
    assert {name: site.reaches_output for name, site in past.items()} == {"enter": True, "first": False, "second": True}


def test_the_nearest_are_the_first_that_have_as_many_rows() -> None:
    class Forked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter = nn.Linear(4, 8, dtype=torch.float64)
            self.heads = nn.ModuleList([nn.Linear(8, rows, dtype=torch.float64) for rows in (3, 5, 4)])

        def forward(self, x: Tensor) -> Tensor:
            h = self.enter(x).tanh()
            return torch.cat([head(h) for head in self.heads], 1)

    ((_, upstream),) = upstreams(Forked(), torch.randn(2, 4, dtype=torch.float64))
    for rows, there in ((1, 3), (3, 3), (4, 8), (8, 8), (9, 12), (99, 12)):
        near = upstream.nearest(rows)
        assert near.output_dim == there
        assert torch.equal(near.dense(), upstream.dense()[:, :there])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_on_a_chain_it_equals_weight_and_slope(activation: type[nn.Module]) -> None:
    model = chain(5, 7, 6, 4, bias=True, activation=activation)
    inputs = batch_for(model, 4).inputs
    network = look(model, inputs)
    cut = CutNetwork(model, inputs, network)
    assert [site.is_output for site in network.guessed] == [False, False, True]
    for site in network.guessed[:2]:
        assert site.link is not None
        with torch.no_grad(), forward_ad.dual_level():
            slope = site.link.slope(cut.s(site))
        linear = LinearUpstream(dict(model.named_parameters())[site.link.next_weight].detach(), slope)
        torch.testing.assert_close(cut.upstream(site).dense(), linear.dense())


def test_upstream_operator_equals_its_dense_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    s, weight = (torch.randn(*shape, dtype=torch.float64, generator=generator) for shape in ((5, 6), (3, 6)))
    upstream = LinearUpstream(weight, (s > 0).double())
    dense = torch.stack([weight @ torch.diag((row > 0).double()) for row in s])
    assert torch.equal(upstream.dense(), dense)
    v, u = (torch.randn(5, d, 2, dtype=torch.float64, generator=generator) for d in (6, 3))
    torch.testing.assert_close(upstream.apply(v), dense @ v)
    torch.testing.assert_close(upstream.apply(v[..., 0]), (dense @ v)[..., 0])
    torch.testing.assert_close(upstream.apply_transpose(u), dense.mT @ u)
    torch.testing.assert_close(upstream.apply_transpose(u[..., 1]), (dense.mT @ u)[..., 1])
    assert (upstream.output_dim, upstream.input_dim) == (3, 6)


@pytest.mark.parametrize("network", ORDINARY)
def test_directional_derivative_of_a_guess_through_the_upstream_jacobian(network: str) -> None:
    """The guess is W̃ᵀz with the z of its key, and δ its inner product with the true gradient."""
    model, batch = any_network(network)
    estimator, rng = GuessEstimator(Transpose(TransposeOptions()), uncovered="freeze"), Streams(3).at(7)
    sites = estimator.bind(model, batch.inputs).sites
    step, derivatives = estimator.dual_pass(model, cross_entropy, batch, rng)
    guesses = {name: y.clone() for name, y in step.guesses.items()}
    true = site_gradients(model, batch, sites)
    linked = estimator.bound
    for name, upstream in upstreams(model, batch.inputs):
        if linked.sites[name].link is None:
            z = rng.normal("guess", name, (batch.size, upstream.output_dim), batch.inputs)
            torch.testing.assert_close(guesses[name].flatten(1), upstream.apply_transpose(z))
    along = sum((true[name] * guesses[name]).flatten(1).sum(1) for name in sites)
    torch.testing.assert_close(derivatives.delta[:, 0], along)
    for name, linear in estimator.linear_maps(model, batch.inputs, 7).items():
        z = rng.normal("guess", name, (batch.size, linear.noise_dim), batch.inputs)
        torch.testing.assert_close(linear.map(z), guesses[name])
    assert torch.device("cpu") == CPU
