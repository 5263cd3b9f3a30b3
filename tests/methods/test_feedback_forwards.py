"""Feedback's forwards are of one state of layers and buffers, and what has no prediction is refused."""

from typing import Any

import identities
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo import Net

from fgcli import ForwardGradient, ModelRefused
from fgcli.extend.options import EngineOptions
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch
from fgcli.gradient.feedback import Feedback, Place
from fgcli.gradient.guess import Isotropic
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.feedback import LocalFeedback


def unlearned() -> LocalFeedback:
    return LocalFeedback(EngineOptions(feedback="local", feedback_learning="none"))


def test_bootstrapping_regresses_on_e_and_keeps_what_it_has_where_a_batch_has_little_of_e() -> None:
    rule = LocalFeedback(EngineOptions(feedback="local", feedback_learning="bootstrap", feedback_rate=0.1))
    place = Place("layer", 5, 3, Streams(0).at(0))
    generator = torch.Generator().manual_seed(0)
    jacobian = torch.randn(5, 3, generator=generator, dtype=torch.double)

    def learn(e: Tensor, gradient: Tensor, step: int) -> None:
        rule.predict(place, e)
        rule.update(rule.learn_from_layer(place, e, gradient), len(e), step)

    e = torch.linalg.qr(torch.randn(40, 3, generator=generator, dtype=torch.double)).Q
    for _ in range(60):
        learn(e, e @ jacobian.T, 0)
    assert torch.allclose(rule.matrices["layer"], jacobian, rtol=1e-9)
    for size in (1e-160, 1e-200, 0.0):  # squares that are no normal numbers, or 0
        learn(size * e, size * 2 * e @ jacobian.T, 300)
    assert torch.allclose(rule.matrices["layer"], jacobian, rtol=1e-9)
    e = torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.01]], dtype=torch.double)
    other = torch.stack([jacobian[:, 0], jacobian[:, 1] + 1, jacobian[:, 2] - 100], 1)  # what explains this batch
    learn(e, e @ other.T, 300)  # at a rate of 0.1
    change = (rule.matrices["layer"] - jacobian).norm(dim=0) / 5**0.5
    assert float(change[0]) < 1e-9
    assert float(change[1]) == pytest.approx(0.12, abs=0.01)
    assert float(change[2]) < 0.01  # of 10


def positions_and_dropout(m: Any, x: Tensor) -> Tensor:
    h = m.enter(x) + m.places(torch.arange(x.shape[1]).unsqueeze(0))
    return m.leave(m.dropout(m.middle(m.dropout(h.tanh())).tanh()).mean(1))


@pytest.mark.parametrize("tangents", [1, 4])
def test_a_correction_is_of_one_forward_where_layers_draw_and_sites_have_one_guess_for_the_batch(tangents: int) -> None:
    torch.manual_seed(0)
    model = Net(
        positions_and_dropout,
        enter=nn.Linear(3, 4),
        places=nn.Embedding(2, 4),
        middle=nn.Linear(4, 4),
        leave=nn.Linear(4, 3),
        dropout=nn.Dropout(),
    ).double()
    data = Batch(torch.randn(5, 2, 3).double(), torch.arange(5) % 3)
    estimator = GuessEstimator(Isotropic(), feedback=Feedback(unlearned(), 0.5), tangents=Tangents(tangents))
    estimator.bind(model, data.inputs)
    assert not estimator.bound.sites["places"].has_samples
    assert identities.of_feedback(estimator, model, F.cross_entropy, data) < 1e-12


def test_a_streamed_chain_draws_the_same_in_both_forwards() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.Tanh(), nn.Dropout())]
    model, x, y = nn.Sequential(*layers, nn.Linear(4, 3)), torch.randn(5, 4), torch.arange(5) % 3
    found = []
    for memory in ("store", "replay"):
        torch.manual_seed(5)
        ForwardGradient(model, "wt", feedback="local", memory=memory).step(x, y, F.cross_entropy)
        found.append([p.grad for p in model.parameters()])
        model.zero_grad()
    torch.testing.assert_close(*found)


def test_buffers_change_once_a_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
    gradient = ForwardGradient(model, "wt", feedback="local", correction=1.0)
    gradient.step(torch.randn(5, 4), torch.arange(5) % 3, F.cross_entropy)
    assert model.get_buffer("1.num_batches_tracked") == 1


def test_recurrent_layers_draw_the_same_for_their_weights_gradient() -> None:
    torch.manual_seed(0)
    model = Net(
        lambda m, x: m.leave(m.layers(x.transpose(0, 1))[0][-1]),
        layers=nn.LSTM(3, 4, num_layers=2, dropout=0.5),
        leave=nn.Linear(4, 3),
    ).double()
    data = Batch(torch.randn(5, 2, 3).double(), torch.arange(5) % 3)
    estimator = GuessEstimator(Isotropic(), feedback=Feedback(unlearned()))
    estimator.bind(model, data.inputs)
    assert identities.of_feedback(estimator, model, F.cross_entropy, data) < 1e-12


def test_where_nothing_is_predicted_only_a_correction_of_one_trains() -> None:
    norms = [layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.BatchNorm1d(4))]
    model, x, y = nn.Sequential(*norms, nn.Linear(4, 3)), torch.randn(5, 4), torch.arange(5) % 3
    said = (
        r"site '2', which '0' leads to, has no sample's own input \(samples meet after site '0'\), .* set correction=1"
    )
    with pytest.raises(ModelRefused, match=said):
        ForwardGradient(model, "wt", feedback="local", correction=0.5).step(x, y, F.cross_entropy)
    ForwardGradient(model, "wt", feedback="local", correction=1.0).step(x, y, F.cross_entropy)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("product", ["plain", "named", "alone"])
def test_products_of_two_that_move_are_split_from_their_tangents(product: str) -> None:
    """However they are called; with as many layers by their own weights as there are, feedback is exact."""

    def multiplied(m: Any, x: Tensor) -> Tensor:
        h = m.enter(x)  # noise is added at the inputs of the next two
        p, q = m.one(h).tanh(), m.other(h).sigmoid()
        by = {
            "plain": lambda: torch.matmul(p, q.mT),
            "named": lambda: torch.matmul(p, other=q.mT),
            "alone": lambda: torch.matmul(input=p, other=q.mT) * torch.sigmoid(input=torch.ones((), dtype=torch.long)),
        }
        return m.leave(torch.softmax(by[product](), -1).pow(2).flatten(1))

    torch.manual_seed(0)
    layers = {"enter": nn.Linear(3, 3), "one": nn.Linear(3, 4), "other": nn.Linear(3, 4), "leave": nn.Linear(4, 3)}
    model = Net(multiplied, **layers).double()
    x, y = torch.randn(5, 2, 3).double(), torch.arange(5) % 3
    gradient = ForwardGradient(model, "activation-perturbation", feedback="local", feedback_layers=9)
    gradient.step(x, y, lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="none"))
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(found, {name: p.grad for name, p in model.named_parameters()}, rtol=1e-9, atol=1e-12)
