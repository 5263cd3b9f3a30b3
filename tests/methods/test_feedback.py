"""Feedback: where it is exact, what it learns, what it may not look at."""

import gc
from collections import OrderedDict
from itertools import product
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from parts import in_parts
from torch import Tensor, nn

from fgcli.extend.options import EngineOptions
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import GuessFault
from fgcli.gradient.estimator import Batch
from fgcli.gradient.feedback import WARM_UP, Feedback, FeedbackRule, Place, Prediction
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.look import look
from fgcli.gradient.pieces import Pieces
from fgcli.gradient.randomness import Streams
from fgcli.gradient.sites import Network
from fgcli.gradient.tangents import Tangents
from fgcli.methods.feedback import DirectFeedback, LocalFeedback


def network(hidden: int, *, linear: bool = False, norm: bool = False, width: int = 7) -> nn.Sequential:
    """Layers of float64 from a generator alone: inputs 6, `hidden` hidden layers, 4 outputs."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    size = 6
    for number in range(1, hidden + 1):
        layers[f"hidden{number}"] = nn.Linear(size, width, dtype=torch.double)
        if norm:
            layers[f"norm{number}"] = nn.LayerNorm(width, dtype=torch.double)
        if not linear:
            layers[f"relu{number}"] = nn.ReLU()
        size = width
    layers["output"] = nn.Linear(size, 4, dtype=torch.double)
    model = nn.Sequential(layers)
    generator = torch.Generator().manual_seed(hidden)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.double) / 2)
    return model


class Attention(nn.Module):
    """A residual stream with one block of attention; samples are sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8, dtype=torch.double), nn.Linear(8, 4, dtype=torch.double)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, dtype=torch.double)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.block(self.enter(x.unsqueeze(1).expand(-1, 3, -1))).mean(1))


def batch(samples: int = 12, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(samples, 6, generator=generator, dtype=torch.double)
    return Batch(inputs, torch.randint(4, (samples,), generator=generator))


def rule(kind: str, learning: str = "tangents", rate: float = 0.02, every: int = 1) -> DirectFeedback:
    """`direct`, `local`, or `local N`, of N layers."""
    options = {"feedback": "local", "feedback_learning": learning, "feedback_rate": rate, "feedback_every": every}
    name, _, layers = kind.partition(" ")
    options["feedback_layers"] = int(layers or 1)
    return {"direct": DirectFeedback, "local": LocalFeedback}[name](EngineOptions.model_validate(options))


def predicted(feedback: Feedback, model: nn.Module, network: Network, data: Batch, step: int) -> Prediction:
    feedback.begin()
    found = feedback.predict(model, network, F.cross_entropy, data, Streams(0).at(step))
    feedback.end(data.size)
    return found


def estimated(model: nn.Module, feedback: Feedback, tangents: Tangents | None = None, steps: int = 1) -> Any:
    estimator = GuessEstimator(Isotropic(), feedback=feedback, tangents=tangents)
    estimator.bind(model, batch().inputs)
    found = None
    for step in range(steps):
        found = estimator.estimate(model, F.cross_entropy, batch(), Streams(0).at(step))
    assert found is not None
    return found


def true_gradients(model: nn.Module, data: Batch) -> dict[str, Tensor]:
    loss = F.cross_entropy(model(data.inputs), data.targets)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))


def off(found: dict[str, Tensor], true: dict[str, Tensor], name: str) -> float:
    return float((found[name] - true[name]).norm() / true[name].norm())


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("kind", "exact_layers"), [("direct", 2), ("local", 3), ("local 2", 4), ("local 9", 6)])
def test_the_last_layers_are_exact_whatever_has_been_learned(kind, exact_layers, norm):
    model, true = network(5, norm=norm), true_gradients(network(5, norm=norm), batch())
    found = estimated(model, Feedback(rule(kind)), steps=3).gradients
    layers = ["output", "hidden5", "hidden4", "hidden3", "hidden2", "hidden1"]
    for position, layer in enumerate(layers):
        error = max(off(found, true, f"{layer}.weight"), off(found, true, f"{layer}.bias"))
        assert (error < 1e-12) == (position < exact_layers), (layer, error)
    if norm:
        assert off(found, true, "norm5.weight") < 1e-12
    assert found.keys() == true.keys()


@pytest.mark.parametrize("kind", ["direct", "local"])
def test_a_correction_of_one_is_exact_with_all_directions_whatever_a_is(kind):
    model, data = network(3), batch()
    own, all_directions = rule(kind), Tangents(3 * 7, "orthogonal")
    estimator = GuessEstimator(Isotropic(), feedback=Feedback(own, 1.0), tangents=all_directions)
    estimator.bind(model, data.inputs)
    for place in ("hidden2", "hidden3"):
        own.matrices[place] = torch.full((7, 4), 0.7, dtype=torch.double)
    found = estimator.estimate(model, F.cross_entropy, data, Streams(0).at(0)).gradients
    true = true_gradients(model, data)
    assert max(off(found, true, name) for name in true) < 1e-9


def test_a_correction_of_one_is_unbiased_with_one_tangent():
    model, data = network(3), batch(3)
    feedback = Feedback(rule("direct", "fixed"), 1.0)
    estimator = GuessEstimator(Isotropic(), feedback=feedback, tangents=Tangents(400))
    estimator.bind(model, data.inputs)
    true = true_gradients(model, data)["hidden1.weight"]
    along = true / true.norm()
    draws = torch.stack(
        [
            (
                estimator.estimate(model, F.cross_entropy, data, Streams(seed).at(0)).gradients["hidden1.weight"]
                * along
            ).sum()
            for seed in range(40)
        ]
    )
    error = draws.std() / len(draws) ** 0.5
    assert error < 0.08 * true.norm()  # else a bias of a third would not be seen
    assert abs(draws.mean() - true.norm()) < 4 * error


def test_direct_is_exact_with_the_jacobian_of_a_linear_network():
    model, data = network(3, linear=True), batch()
    weights = {name: one.weight for name, one in model.named_children() if isinstance(one, nn.Linear)}
    own, found = rule("direct", "none"), look(model, data.inputs)
    own.matrices["hidden3"] = (weights["output"] @ weights["hidden3"]).T.detach()
    own.matrices["hidden2"] = (weights["output"] @ weights["hidden3"] @ weights["hidden2"]).T.detach()
    told = predicted(Feedback(own), model, found, data, 0)
    true = true_gradients(model, data)
    estimate = (told.at["hidden1"].T @ data.inputs).detach()
    assert torch.allclose(estimate, true["hidden1.weight"], rtol=1e-9)


def test_it_learns_the_mean_jacobian_of_a_network_that_stands_still():
    model = network(3, linear=True)
    weights = {name: one.weight.detach() for name, one in model.named_children() if isinstance(one, nn.Linear)}
    jacobian = (weights["output"] @ weights["hidden3"] @ weights["hidden2"]).T
    own, found = rule("direct"), look(model, batch().inputs)
    feedback = Feedback(own)
    for step in range(400):
        predicted(feedback, model, found, batch(64, step), step)
    assert float((own.matrices["hidden2"] - jacobian).norm() / jacobian.norm()) < 0.05


def test_learning_is_stable_with_far_more_dimensions_than_samples():
    model, data = network(2, width=400), batch(4)
    own, found = rule("direct", rate=1.0), look(network(2, width=400), batch(4).inputs)
    feedback = Feedback(own)
    parameters = dict(model.named_parameters())
    size = float((parameters["output.weight"] @ parameters["hidden2.weight"]).detach().norm())
    for step in range(300):
        predicted(feedback, model, found, data, step)
    assert float(own.matrices["hidden2"].norm()) < 2 * size


def test_bootstrapped_feedback_comes_nearer_than_none_and_uses_no_tangents(monkeypatch):
    def no_tangents(*_: object) -> None:
        raise AssertionError("forward mode was used")

    model, true = network(4), true_gradients(network(4), batch())
    feedback, without = Feedback(rule("direct", "bootstrap")), Feedback(rule("direct", "none"))
    found = look(model, batch().inputs)
    monkeypatch.setattr(forward_ad, "make_dual", no_tangents)
    told = alone = torch.zeros(0)
    for step in range(30):
        told = predicted(feedback, model, found, batch(), step).at["hidden3"]
        alone = predicted(without, model, found, batch(), step).at["hidden3"]
    inputs = torch.relu(model[:4](batch().inputs)).detach()
    wanted = true["hidden3.weight"]
    assert alone.norm() == 0
    assert F.cosine_similarity((told.flatten(1).T @ inputs).flatten(), wanted.flatten(), 0) > 0.5


@pytest.mark.parametrize("model", [network(3), Attention()])
def test_no_graph_leads_past_the_next_weight(model):
    data = batch()
    found = look(model, data.inputs)
    cut = Pieces(model, data.inputs, found)
    owners = {id(leaf): name for name, some in cut.going.items() for leaf in some}
    parameters = {id(p) for p in model.parameters()}
    for name, end in cut.ends.items():
        for tensor in end.tensors:
            reached = {id(leaf) for leaf in _leaves(tensor)}
            assert not reached & parameters
            before = {owners[one] for one in reached if one in owners}
            assert before == {site.name for site in found.sites.values() if name in site.reaches}, name


def _leaves(tensor: Tensor) -> list[Tensor]:
    seen, ahead, found = set(), [tensor.grad_fn], []
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(variable := getattr(node, "variable", None), Tensor):
            found.append(variable)
        ahead.extend(following for following, _ in node.next_functions)
    return found


@pytest.mark.parametrize("learning", ["tangents", "bootstrap"])
def test_it_goes_on_from_its_state_to_the_bit(learning):
    model, data = network(3), batch()

    def stepped(estimator: GuessEstimator, steps: range) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for step in steps:
            found = estimator.estimate(model, F.cross_entropy, data, Streams(0).at(step)).gradients
        return found

    every = 3 if learning == "tangents" else 1
    whole, first, second = (
        GuessEstimator(Isotropic(), feedback=Feedback(rule("local", learning, every=every))) for _ in range(3)
    )
    for estimator in (whole, first, second):
        estimator.bind(model, data.inputs)
    stepped(first, range(WARM_UP + 2))
    second.load_state({key: value.clone() for key, value in first.state().items()})
    last = range(WARM_UP + 2, WARM_UP + 6)
    expected, found = stepped(whole, range(WARM_UP + 6)), stepped(second, last)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_feedback_that_grows_without_bound_is_named_before_the_update():
    model, data = network(3), batch()
    own, found = rule("direct"), look(network(3), batch().inputs)
    feedback = Feedback(own)
    for step in range(WARM_UP):
        predicted(feedback, model, found, data, step)
    own.matrices["hidden2"] *= 1e6
    with pytest.raises(GuessFault, match=r"site 'hidden2': feedback has grown"):
        predicted(feedback, model, found, data, WARM_UP)


def test_a_loss_that_has_all_but_vanished_is_not_taken_for_growth():
    """Squares of such an e are 0 in float32."""
    feedback = Feedback(rule("direct"))
    e = torch.full((8, 2), 1e-2)
    feedback.notice_growth("hidden2", e @ torch.ones(2, 5), e)
    feedback.steps = WARM_UP
    for scale in (1e-23, 1e-36, 0.0):
        feedback.notice_growth("hidden2", (e * scale) @ torch.ones(2, 5), e * scale)
    with pytest.raises(GuessFault, match=r"has grown to 2e\+06"):
        feedback.notice_growth("hidden2", (e * 1e-23) @ torch.full((2, 5), 1e6), e * 1e-23)


@pytest.mark.parametrize(
    ("kind", "learning"),
    [
        *product(["direct", "local"], ["tangents", "bootstrap", "fixed", "none"]),
        ("local 2", "tangents"),
        ("local 2", "bootstrap"),
    ],
)
@pytest.mark.parametrize("model", [network(1), network(2), network(7, norm=True), Attention()])
def test_replay_gives_the_same_numbers_as_store(model, kind, learning, monkeypatch):
    in_parts(monkeypatch, 16)
    data = batch(51)  # the parts are not of one size

    def after(memory: Any) -> dict[str, Tensor]:
        estimator = GuessEstimator(Isotropic(), memory=memory, feedback=Feedback(rule(kind, learning)))
        estimator.bind(model, data.inputs)
        steps = [estimator.estimate(model, F.cross_entropy, data, Streams(0).at(step)) for step in range(3)]
        return steps[-1].gradients

    expected = after("store")
    for found in (after("auto"), after("replay")):
        assert expected.keys() == found.keys()
        for name, gradient in expected.items():
            assert torch.allclose(found[name], gradient, rtol=1e-10, atol=1e-14), name


def test_replay_in_a_chain_holds_what_does_not_grow_with_depth():
    def held(depth: int) -> int:
        model, most = network(depth, width=16), 0
        data, found = batch(64), look(network(depth, width=16), batch().inputs)

        def count(*_: object) -> None:
            nonlocal most
            tensors = [one for one in gc.get_objects() if type(one) is Tensor and one.dim()]
            most = max(most, sum(one.numel() for one in tensors if len(one) == 64))

        feedback = Feedback(rule("local", "fixed"))
        feedback.begin()
        feedback.stream(model, found, F.cross_entropy, data, Streams(0).at(0), count, lambda: None)
        return most

    assert held(12) == held(6)


class TokenModel(nn.Module):
    """Each token by itself: linear layers without mixing, so that A shared over tokens is right."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network(3, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_tokens_have_a_gradient_each_and_one_matrix():
    model, generator = TokenModel(), torch.Generator().manual_seed(1)
    inputs = torch.randn(32, 5, 6, generator=generator, dtype=torch.double)
    data = Batch(inputs, torch.randint(4, (32, 5), generator=generator))

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    own, found = rule("direct"), look(model, data.inputs)
    feedback, told = Feedback(own), None
    for step in range(300):
        feedback.begin()
        told = feedback.predict(model, found, loss, data, Streams(0).at(step))
        feedback.end(data.size)
    assert told is not None
    assert {one.shape for one in own.matrices.values()} == {(7, 4)}
    weights = dict(model.named_parameters())
    layers = [weights[f"inner.{name}.weight"].detach() for name in ("output", "hidden3", "hidden2")]
    jacobian = (layers[0] @ layers[1] @ layers[2]).T
    assert float((own.matrices["inner.hidden2"] - jacobian).norm() / jacobian.norm()) < 0.05
    true = torch.autograd.grad(loss(model(inputs), data.targets), weights["inner.hidden1.weight"])[0]
    estimate = torch.einsum("bto,bti->oi", told.at["inner.hidden1"], inputs)
    assert F.cosine_similarity(estimate.flatten(), true.flatten(), 0) > 0.99


class Ones(FeedbackRule):
    """The smallest rule: what a third party writes."""

    def predict(self, place: Place, e: Tensor) -> Tensor:
        return e.sum(1, keepdim=True).expand(-1, place.dim)


def test_a_rule_of_ones_own_is_one_method():
    model, data = network(2), batch()
    found = estimated(model, Feedback(Ones())).gradients
    true = true_gradients(model, data)
    assert max(off(found, true, name) for name in ("output.weight", "hidden2.weight")) < 1e-12
    assert off(found, true, "hidden1.weight") > 0.1


@pytest.mark.parametrize("tangents", [Tangents(), Tangents(4), Tangents(3, chunk=2)])
@pytest.mark.parametrize("memory", ["store", "replay"])
def test_the_exact_output_gradient_is_that_of_backward_and_takes_no_guess(tangents, memory):
    model, data = network(2), batch()
    estimator = GuessEstimator(Isotropic(), tangents=tangents, memory=memory, output_gradient="exact")
    estimator.bind(model, data.inputs)
    found = estimator.estimate(model, F.cross_entropy, data, Streams(0).at(0)).gradients
    true = true_gradients(model, data)
    assert off(found, true, "output.weight") < 1e-12
    assert off(found, true, "output.bias") < 1e-12
    assert off(found, true, "hidden2.weight") > 0.1


def test_the_exact_output_gradient_goes_through_what_lies_behind_the_last_layer():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(6, 5, dtype=torch.double), nn.Linear(5, 4, dtype=torch.double)

        def forward(self, x: Tensor) -> Tensor:
            return self.leave(self.enter(x).tanh().unsqueeze(1).expand(-1, 3, -1)).tanh().mean(1)

    torch.manual_seed(0)
    model, data = Pooled(), batch()
    for tangents in (Tangents(), Tangents(3)):
        estimator = GuessEstimator(Isotropic(), tangents=tangents, output_gradient="exact")
        estimator.bind(model, data.inputs)
        found = estimator.estimate(model, F.cross_entropy, data, Streams(0).at(0)).gradients
        assert off(found, true_gradients(model, data), "leave.weight") < 1e-12
