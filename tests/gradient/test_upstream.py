"""Upstream Jacobians of any network, held to jacrev and to the chain rule, in float64."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from networks import ANY, any_network, batch_for, chain, cross_entropy, site_gradients
from torch import Tensor, nn

from fgcli.gradient.chain import OutputLayer, Segment, find_segments
from fgcli.gradient.dual import hooks
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.probe import output_shapes
from fgcli.gradient.randomness import Streams
from fgcli.gradient.segment import GraphSegment, Lookahead, graph_segment
from fgcli.gradient.sites import named_site_modules
from fgcli.gradient.trace import Traced
from fgcli.gradient.upstream import LinearUpstream, SegmentUpstream
from fgcli.methods.transpose import Transpose


def wt() -> GuessEstimator:
    return GuessEstimator(Transpose(GuessOptions()))


def segments(model: nn.Module, inputs: Tensor) -> dict[str, GraphSegment]:
    traced = Traced(model, output_shapes(model, named_site_modules(model), inputs))
    found = {name: graph_segment(traced, name, "") for name in traced.sites}
    return {name: segment for name, segment in found.items() if segment is not None}


def upstreams(model: nn.Module, inputs: Tensor) -> Iterator[tuple[str, GraphSegment, SegmentUpstream]]:
    found = segments(model, inputs)
    for name, _, upstream in Lookahead(found)(inputs):
        yield name, found[name], upstream


def direct_jacobians(model: nn.Module, inputs: Tensor, site: str) -> dict[str, Tensor]:
    """∂s_j/∂s_i with all other sites' outputs held fixed, and ∂output/∂s_i: [batch, d_j, d_i], by jacrev through hooks.

    Nothing of torch.fx: the model runs as it is, each site's output replaced by a constant once it is written down.
    """
    modules = named_site_modules(model)
    values: dict[str, Tensor] = {}

    def record(name: str, _: nn.Module, __: object, s: Tensor) -> None:
        values[name] = s.detach().clone()

    with hooks(modules, record):
        model(inputs)

    def ends(s: Tensor) -> dict[str, Tensor]:
        seen: dict[str, Tensor] = {}

        def cut(name: str, _: nn.Module, __: object, own: Tensor) -> Tensor:
            seen[name] = own.clone().flatten(1)
            return s.clone() if name == site else values[name].clone()

        with hooks(modules, cut):
            seen["output"] = model(inputs).flatten(1)
        return {name: value for name, value in seen.items() if name != site}

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        jacobians = torch.func.jacrev(ends)(values[site])
    batch = range(len(inputs))
    return {name: torch.stack([j[b, :, b].flatten(1) for b in batch]) for name, j in jacobians.items()}


@pytest.mark.parametrize("network", ANY)
def test_upstream_jacobians_are_the_direct_partial_derivatives(network: str) -> None:
    model, batch = any_network(network)
    generator = torch.Generator().manual_seed(0)
    for name, segment, upstream in upstreams(model, batch.inputs):
        expected = direct_jacobians(model, batch.inputs, name)
        ends = ["output" if node.op != "call_module" else str(node.target) for node in segment.ends]
        ends = [end if end in expected else "output" for end in ends]
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


@pytest.mark.parametrize("network", ANY)
def test_the_gradient_lies_in_the_image_of_the_transpose(network: str) -> None:
    model, batch = any_network(network)
    for name, _, upstream in upstreams(model, batch.inputs):
        g = site_gradients(model, batch, (name,))[name].flatten(1)
        assert (g.norm(dim=1) > 1e-6).any()
        basis = torch.linalg.pinv(upstream.dense()) @ upstream.dense()
        torch.testing.assert_close((basis @ g.unsqueeze(-1)).squeeze(-1), g, rtol=1e-8, atol=1e-12)


def test_what_is_reached_from_a_residual_stream() -> None:
    model, batch = any_network("attention")
    found = segments(model, batch.inputs)
    reached = {name: {str(node.target) for node in segment.ends} for name, segment in found.items()}
    assert reached == {
        "embed": {"query", "key", "value", "inner", "head"},
        "query": {"out"},
        "key": {"out"},
        "value": {"out"},
        "out": {"inner", "head"},
        "inner": {"leave"},
        "leave": {"head"},
    }


@pytest.mark.parametrize("activation", [nn.ReLU, nn.GELU])
def test_on_a_chain_it_equals_weight_and_slope(activation: type[nn.Module]) -> None:
    model = chain(5, 7, 6, 4, bias=True, activation=activation)
    inputs = batch_for(model, 4).inputs
    linear = find_segments(model, output_shapes(model, named_site_modules(model), inputs))
    assert isinstance(linear.pop("4"), OutputLayer)
    for name, s, upstream in Lookahead(segments(model, inputs))(inputs):
        segment = linear.pop(name)
        assert isinstance(segment, Segment)
        with torch.no_grad(), torch.autograd.forward_ad.dual_level():
            weight, slope = segment.next_layer.weight.detach(), segment.slope(s)
        torch.testing.assert_close(upstream.dense(), LinearUpstream(weight, slope).dense())
    assert not linear


@pytest.mark.parametrize("network", ANY)
def test_directional_derivative_of_a_guess_through_the_upstream_jacobian(network: str) -> None:
    """The guess is W̃ᵀz with the z of its key, and δ its inner product with the true gradient."""
    model, batch = any_network(network)
    estimator, rng = wt(), Streams(3).at(7)
    sites = estimator.bind(model, batch.inputs).sites
    drawn = estimator.dual_pass(model, cross_entropy, batch, rng)
    true = site_gradients(model, batch, sites)
    for name, _, upstream in upstreams(model, batch.inputs):
        z = rng.normal("guess", name, (len(batch.inputs), upstream.output_dim), batch.inputs)
        torch.testing.assert_close(drawn.guesses[name].flatten(1), upstream.apply_transpose(z))
    along = sum((true[name] * drawn.guesses[name]).flatten(1).sum(1) for name in sites)
    if not drawn.directions:
        torch.testing.assert_close(drawn.directional_derivative[:, 0], along)
    maps = estimator.linear_maps(model, batch.inputs, 7)
    for name, linear in maps.items():
        z = rng.normal("guess", name, (len(batch.inputs), linear.noise_dim), batch.inputs)
        torch.testing.assert_close(linear.map(z), drawn.guesses[name])


class Faulty(nn.Module):
    """Does between its layers what the name says."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.count: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        match self.fault:
            case "dropout":
                h = F.layer_norm(F.dropout(h), (4,))
            case "state":
                self.count += 1.0
                h = h * self.count
            case "constant":
                h = h * torch.ones(4)
            case "kept, not used":
                self.count = h
            case "zeroed":
                h[:, :1].zero_()
            case "changed under its old name":
                kept = torch.tanh(h)
                kept.mul_(2)
                h = kept + h
            case "changed after the last site":
                y = self.third(torch.relu(self.second(torch.tanh(h))))
                h.mul_(2)
                return y + h
            case "mixing":
                h = h - h.mean(0)
            case "formula":
                h = Doubled.apply(h)
            case "value":
                h = h if h.isfinite().all() else -h
        return self.third(torch.relu(self.second(h)))


class Doubled(torch.autograd.Function):
    """Has no forward-mode formula."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: object, *grad_outputs: Tensor) -> Tensor:
        return 2 * grad_outputs[0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("dropout", "output of site 'second' is another when the model is computed a second time: .*dropout"),
        ("state", "output of site 'second' is another when .* keeps state"),
        ("zeroed", r"site 'first' \(Linear\) is in a model that calls zero_, .* or use activation-perturbation"),
        ("changed under its old name", "output of site 'second' is another when .* under its old name"),
        ("changed after the last site", "the model's output is another when .* under its old name"),
        ("mixing", "site 'first' is followed by an operation that mixes the samples"),
        ("formula", "site 'first' is followed by an operation without a forward-mode formula .*backprop"),
        ("value", r"site 'first' \(Linear\) is in a model that torch.fx cannot follow .*no branches on values"),
    ],
)
def test_refused_by_name(fault: str, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelRefused, match=message):
        wt().bind(Faulty(fault), torch.randn(3, 4))


def test_the_layer_that_cannot_be_followed_is_named() -> None:
    inner = nn.Sequential(nn.Linear(4, 4), Faulty("value"))
    with pytest.raises(ModelRefused, match=r"torch.fx cannot follow in layer '1.1' \(Faulty\) \(TraceError"):
        wt().bind(nn.Sequential(nn.Linear(4, 4), inner), torch.randn(3, 4))


def test_what_a_forward_keeps_for_others_to_look_at_is_left_to_it() -> None:
    model, x = Faulty("kept, not used"), torch.randn(3, 4)
    wt().bind(model, x)
    assert isinstance(model.count, Tensor)
    assert model(x).shape == (3, 4)


def test_a_constant_of_the_forward_is_the_graphs_and_not_left_in_the_model() -> None:
    model, x = Faulty("constant"), torch.randn(3, 4)
    before = set(vars(model))
    estimator = wt()
    estimator.bind(model, x)
    assert set(vars(model)) == before
    estimate = estimator.estimate(model, cross_entropy, Batch(x, torch.tensor([0, 1, 2])), Streams(3).at(7))
    assert all(gradient.any() for gradient in estimate.gradients.values())
