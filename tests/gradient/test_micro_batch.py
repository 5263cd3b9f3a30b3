"""A batch estimated in parts, in float64."""

from typing import Any

import pytest
import torch
from networks import Wrapped, batch_for, chain, cross_entropy
from torch import Tensor

from fgcli.diagnostics.gradients import parameter_gradients
from fgcli.extend.options import Options
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.estimator import Batch, Estimate
from fgcli.gradient.guess import Isotropic, Layer, LinearMap
from fgcli.gradient.micro_batch import MicroBatched
from fgcli.gradient.randomness import Streams
from fgcli.gradient.tangents import Tangents
from fgcli.methods.backprop import Backprop

RNG = Streams(3).at(7)
MODEL = chain(4, 5, 3)
BATCH = batch_for(MODEL, 10)


def estimated(estimator: Any, size: int, batch: Batch = BATCH) -> Estimate:
    wrapped = MicroBatched(estimator, size)
    wrapped.bind(MODEL, batch.inputs)
    return wrapped.estimate(MODEL, cross_entropy, batch, RNG)


# As many orthogonal directions as there are dimensions give the gradient itself, whatever they are.
@pytest.mark.parametrize(
    "estimator", [Backprop(Options()), GuessEstimator(Isotropic(), tangents=Tangents(8, "orthogonal"))]
)
@pytest.mark.parametrize("size", [1, 4, 10, 99])
def test_what_noise_does_not_change_is_that_of_the_whole_batch(estimator: Any, size: int) -> None:
    found = estimated(estimator, size)
    torch.testing.assert_close(found.losses, cross_entropy(MODEL(BATCH.inputs), BATCH.targets).detach())
    torch.testing.assert_close(found.gradients, parameter_gradients(MODEL, cross_entropy, BATCH), rtol=1e-8, atol=1e-11)


def test_one_guess_is_the_mean_over_parts_each_with_noise_of_its_own() -> None:
    estimator = GuessEstimator(Isotropic())
    found = estimated(estimator, 4)
    deltas, gradients = [], {name: torch.zeros_like(p) for name, p in MODEL.named_parameters()}
    for number, start in enumerate((0, 4, 8)):
        part = Batch(BATCH.inputs[start : start + 4], BATCH.targets[start : start + 4])
        share = len(part.inputs) / 10
        one = estimator.estimate(MODEL, cross_entropy, part, RNG.part(number))
        assert one.directional_derivative is not None
        deltas.append(one.directional_derivative * share)
        gradients = {name: total + share * one.gradients[name] for name, total in gradients.items()}
    torch.testing.assert_close(found.directional_derivative, torch.cat(deltas))
    torch.testing.assert_close(found.gradients, gradients)


def test_parts_draw_from_different_streams() -> None:
    assert RNG.part(0) is RNG
    like = torch.zeros(1)
    drawn = [RNG.part(number).normal("guess", "a", (4,), like) for number in range(3)]
    drawn.append(Streams(3).at(8).part(1).normal("guess", "a", (4,), like))
    assert torch.equal(drawn[1], RNG.part(1).normal("guess", "a", (4,), like))
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])


class NotFinite(Wrapped):
    """NaN where a layer's output has one sample with a large value."""

    def mapped(self, layer: Layer, linear: LinearMap, z: Tensor) -> Tensor:
        assert layer.output is not None
        return linear.map(z) * torch.where(layer.output.abs().max() > 50, torch.nan, 1)


def test_a_fault_in_a_later_part_is_found() -> None:
    batch = Batch(BATCH.inputs.clone(), BATCH.targets)
    batch.inputs[9] *= 1000
    wrapped = MicroBatched(GuessEstimator(NotFinite(Isotropic())), 4)
    wrapped.bind(MODEL, BATCH.inputs)
    assert wrapped.find_fault(MODEL, batch, RNG) == "site '0': the guess is not finite"
    assert wrapped.find_fault(MODEL, BATCH, RNG) is None
    assert MicroBatched(Backprop(Options()), 4).find_fault(MODEL, batch, RNG) is None
