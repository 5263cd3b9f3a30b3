from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
import torch
from claims import GUESSES
from looks import looked_at_once
from torch import Tensor

from fgcli import Coverage, Estimate, GuessEstimator, Isotropic, load_registry
from fgcli.testing import CheckFailed, check_estimator, estimators
from fgcli.testing.cases import cases


@pytest.fixture(autouse=True)
def _looks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at_once(monkeypatch)


# local-gradient takes models with local losses alone (tests/methods/test_local_gradient)
@pytest.mark.parametrize("name", [name for name in load_registry().names("estimator") if name != "local-gradient"])
def test_every_built_in_passes(name: str) -> None:
    entry = load_registry().entry("estimator", name)
    if name in ("pepita", "sofo", "directional"):
        # The learned directions are other ones at a second call of the same step.
        own: dict[str, Any] = {"directional": {"direction": "random"}, "sofo": {"tangents": 4}}.get(name, {})
        check_estimator(lambda: entry.load()(entry.options(**own)), any_network=name != "pepita")
        return
    perturbs = name == "weight-perturbation"
    differences = "epsilon" in entry.options.model_fields  # unbiased for epsilon to 0 alone (tests/methods/test_spsa)
    smaller: dict[str, Any] = {"epsilon": 1e-4} if differences else {}
    options = entry.options(**smaller)
    check_estimator(lambda: entry.load()(options), any_network=True, unbiased=not (perturbs or differences))
    if perturbs:  # estimates are the means of those of 100 directions, and so a 100th of 30,000 shows a bias of 5 %
        several: dict[str, Any] = {"tangents": 100}
        check_estimator(lambda: entry.load()(entry.options(**several)), any_network=True, unbiased=True)


@pytest.mark.parametrize("claim", GUESSES[:3], ids=lambda claim: claim.name)
def test_the_estimator_of_a_guess_method_passes(claim: Any) -> None:
    check_estimator(claim.estimator, any_network=claim.name == "activation-perturbation", unbiased=claim.unbiased)


Base: Any = GuessEstimator


class Sound(Base):
    def __init__(self) -> None:
        super().__init__(Isotropic())


class NoState(Sound):
    state = None  # pyright: ignore[reportAssignmentType]


class NoCoverage(Sound):
    def bind(self, *arguments: Any) -> Any:
        super().bind(*arguments)


class ForgetsTheMean(Sound):
    """The gradient of the sum of the losses in the place of their mean's."""

    def estimate(self, model: Any, loss: Any, batch: Any, rng: Any) -> Estimate:
        estimate = super().estimate(model, loss, batch, rng)
        samples = batch.size
        return replace(estimate, gradients={n: samples * g for n, g in estimate.gradients.items()})


def spoilt(**changes: Any) -> type:
    """An estimator whose estimate is changed: by function of it, for each field."""

    class Spoilt(Sound):
        def estimate(self, *arguments: Any) -> Estimate:
            estimate = super().estimate(*arguments)
            return replace(estimate, **{name: change(getattr(estimate, name)) for name, change in changes.items()})

    return Spoilt


def each(change: Any) -> Any:
    return lambda gradients: {name: change(gradient) for name, gradient in gradients.items()}


def first_only(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(gradients.items())[:1])


class WritesIntoTheModel(Sound):
    def estimate(self, model: Any, *arguments: Any) -> Estimate:
        next(model.parameters()).add_(1)
        return super().estimate(model, *arguments)


class SetsGrad(Sound):
    def estimate(self, model: Any, *arguments: Any) -> Estimate:
        estimate = super().estimate(model, *arguments)
        for name, parameter in model.named_parameters():
            parameter.grad = estimate.gradients[name]
        return estimate


class DrawsItsOwn(Sound):
    def estimate(self, *arguments: Any) -> Estimate:
        estimate = super().estimate(*arguments)
        return replace(estimate, gradients={n: g + torch.randn_like(g) for n, g in estimate.gradients.items()})


class ForgetsItsState(Sound):
    steps = 0

    def estimate(self, *arguments: Any) -> Estimate:
        self.steps += 1
        estimate = super().estimate(*arguments)
        return replace(estimate, gradients={n: g / self.steps for n, g in estimate.gradients.items()})


class StateOfNumbers(Sound):
    def state(self) -> Any:
        return {"steps": 3}


class CallsFrozenWhatItTrains(Sound):
    def bind(self, *arguments: Any) -> Coverage:
        coverage = super().bind(*arguments)
        return replace(coverage, frozen=("0.weight",))


class WantsALossASample(Sound):
    def estimate(self, model: Any, loss: Any, batch: Any, rng: Any) -> Estimate:
        estimate = super().estimate(model, loss, batch, rng)
        share = len(batch.targets) / estimate.losses.numel()
        return replace(estimate, gradients={n: share * g for n, g in estimate.gradients.items()})


class WantsATensor(Sound):
    def estimate(self, model: Any, loss: Any, batch: Any, rng: Any) -> Estimate:
        batch.inputs.dim()
        return super().estimate(model, loss, batch, rng)


BROKEN = {
    "mean loss not taken": (
        WantsALossASample,
        r"the gradient of 0.weight for a loss that gives its mean: expected that",
    ),
    "no tuple": (WantsATensor, r"inputs in a tuple: expected an estimate, found AttributeError: 'tuple' object has no"),
    "no state": (NoState, r"methods: expected bind, estimate, state, load_state, found no state"),
    "no coverage": (NoCoverage, r"bind: expected a Coverage, found NoneType"),
    "mean loss": (spoilt(losses=torch.mean), r"losses in a network .*: expected shape \[6\], one a sample, found \[\]"),
    "other losses": (spoilt(losses=lambda v: 2 * v), r"losses in a network .*: expected those of the model, to"),
    "loss with a graph": (spoilt(losses=lambda v: v.clone().requires_grad_()), r"expected detached, found requires_gr"),
    "derivative of the batch": (spoilt(directional_derivative=torch.sum), r"directional derivative in .* shape \[6\]"),
    "wrong shape": (
        spoilt(gradients=each(lambda g: g.T)),
        r"its gradient of 0.weight has shape \[6, 8\]; it must",
    ),
    "wrong dtype": (
        spoilt(gradients=each(torch.Tensor.double)),
        r"its gradient of 0.weight has dtype torch.float64",
    ),
    "missing": (
        spoilt(gradients=first_only),
        r"the gradient of 2.weight in .*: expected one, unless the coverage",
    ),
    "unknown": (spoilt(gradients=lambda g: g | {"x": g["0.weight"]}), r"a gradient for 'x', which is no parameter"),
    "not finite": (spoilt(gradients=each(lambda g: g / 0)), r"expected finite numbers, found a gradient of 0.weight"),
    "graph": (spoilt(gradients=each(lambda g: g.clone().requires_grad_())), r"no recorded graph, found requires_grad"),
    "5 % too long": (spoilt(gradients=each(lambda g: 1.05 * g)), r"the estimate along the gradient: expected a mean"),
    "sum for mean": (ForgetsTheMean, r"the estimate along the gradient: expected a mean of"),
    "no estimate": (type("X", (Sound,), {"estimate": lambda *_: None}), r"estimate returned NoneType; it must return"),
    "frozen": (CallsFrozenWhatItTrains, r"the gradient of 0.weight in .*: expected one, unless the coverage says froz"),
    "writes": (WritesIntoTheModel, r"side effects in a network .*: expected 0.weight left as it is"),
    "sets grad": (SetsGrad, r"side effects in a network .*: expected 0.weight.grad left alone, found a gradient in it"),
    "global randomness": (DrawsItsOwn, r"randomness: expected no draw but from what it is given, found draws from to"),
    "state": (ForgetsItsState, r"the gradient of 0.weight: expected a second call of the same step to estimate the sa"),
    "state of numbers": (StateOfNumbers, r"state: expected a mapping of names to tensors.*, found {'steps': 3}"),
}


@pytest.mark.parametrize(("estimator", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_estimator_is_found_out(estimator: type, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators, "cases", lambda **which: islice(cases(**which), 1))  # any of them shows it
    with pytest.raises(CheckFailed, match=said):
        check_estimator(estimator, any_network=True, unbiased=True)
