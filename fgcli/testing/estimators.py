"""`check_estimator`: an estimator held to its contract, and to the gradient where it claims to be unbiased."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fgcli.gradient.errors import GuessFault, ModelRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimate, Loss
from fgcli.gradient.randomness import Streams
from fgcli.testing.cases import Case, batch_for, cases, chain, cross_entropy
from fgcli.testing.expect import CheckFailed, expect, expect_close, expect_mean, unchanged, without_global_randomness
from fgcli.testing.watch import SEED
from fgcli.training.faults import malformed, not_finite

METHODS = ("bind", "estimate", "state", "load_state")
BIAS = 0.05  # of the gradient's length: six standard errors in the number of estimates that is drawn for it
COPIES = 256  # of one sample in the batch; guesses drawn per sample are averaged over them
PILOT = 200
MOST = 30_000
DIRECTIONS = 3
STEPS = 3


def check_estimator(make: Callable[[], Any], *, any_network: bool = False, unbiased: bool = False) -> None:
    """Hold an estimator to its contract.

    What is checked: losses, and gradients of all parameters but those it calls frozen, in shape, dtype and device;
    that they are finite, also where units are off and weights rank deficient; the same gradient whether the loss gives
    its mean or a loss a sample, and whether inputs are a tensor, a tuple or a mapping; randomness from `rng` alone;
    nothing written into the model; a resumed run that estimates as an uninterrupted one; and the claim to be unbiased:
    a bias of 5 % along the gradient is six standard errors off, at the number of estimates that an estimator's spread
    asks for: some hundred where guesses are drawn per sample, up to 30,000, 10 s, where one serves the whole batch.

    Args:
        make: gives a fresh instance: `lambda: Mine(MyOptions())`.
        any_network: whether it takes more than chains of linear layers and activations.
        unbiased: whether it claims E[gradient] to be the gradient.

    Raises:
        CheckFailed: says what was expected and what was found.
    """
    __tracebackhide__ = True
    missing = [name for name in METHODS if not callable(getattr(make(), name, None))]
    expect(not missing, "methods", ", ".join(METHODS), f"no {', '.join(missing)}")
    for case in cases(any_network=any_network):
        _check_estimate(make, case)
    case = Case("a network", model := chain(), batch_for(model))
    _check_own_randomness(make, case)
    _check_resumed(make, case)
    _check_forms(make, case)
    if unbiased:
        _check_unbiased(make)


class _Bound:
    """An estimator, bound to a case."""

    def __init__(self, estimator: Any, case: Case) -> None:
        self.estimator, self.case = estimator, case
        try:
            self.coverage = estimator.bind(case.model, case.batch.rows(slice(0, 2)).inputs)
        except ModelRefused as refusal:
            raise CheckFailed(f"in {case}: bind: expected a model it trains, found {refusal}") from refusal
        expect(isinstance(self.coverage, Coverage), "bind", "a Coverage", type(self.coverage).__name__)

    @torch.no_grad()
    def estimate(self, step: int = 0, loss: Loss = cross_entropy) -> Estimate:
        rng = Streams(SEED).at(step)
        try:
            return self.estimator.estimate(self.case.model, loss, self.case.batch, rng)
        except GuessFault as fault:
            raise CheckFailed(f"in {self.case}: {fault}") from fault


def _check_estimate(make: Callable[[], Any], case: Case) -> None:
    with unchanged(case.model, f"side effects in {case}"):
        bound = _Bound(make(), case)
        estimate = bound.estimate()
    parameters = {name: p for name, p in case.model.named_parameters() if p.requires_grad}
    fault = malformed(estimate, parameters)
    expect(fault is None, f"the estimate in {case}", "an Estimate of the model's parameters", fault)
    _check_samples(estimate.losses, len(case.batch.inputs), f"losses in {case}")
    with torch.no_grad():
        losses = cross_entropy(case.model(case.batch.inputs), case.batch.targets)
    expect_close(estimate.losses, losses, f"losses in {case}", "those of the model", 1e-5)
    along = estimate.directional_derivative
    if along is not None and along.shape[:1] != (1,):  # where samples are not told apart
        _check_samples(
            along[:, 0] if along.dim() == 2 else along, len(case.batch.inputs), f"directional derivative in {case}"
        )
    bad = not_finite(estimate)
    expect(bad is None, f"the estimate in {case}", "finite numbers", f"a {bad} that is not finite")
    for name in parameters:
        known = (name in estimate.gradients) != (name in bound.coverage.frozen)
        expect(known, f"the gradient of {name} in {case}", "one, unless the coverage says frozen", "otherwise")
    recorded = [name for name, gradient in estimate.gradients.items() if gradient.requires_grad]
    expect(not recorded, f"gradients in {case}", "no recorded graph", f"requires_grad in {', '.join(recorded)}")


def _check_samples(values: Tensor, batch: int, what: str) -> None:
    expect(tuple(values.shape) == (batch,), what, f"shape [{batch}], one a sample", list(values.shape))
    expect(not values.requires_grad, what, "detached", "requires_grad")


def _check_forms(make: Callable[[], Any], case: Case) -> None:
    """The same estimate in whatever form the loss and the inputs come."""
    expected = _Bound(make(), case).estimate()
    inputs, targets = case.batch.inputs, case.batch.targets
    forms = {
        "a loss that gives its mean": (case.batch, lambda outputs, targets: cross_entropy(outputs, targets).mean()),
        "inputs in a tuple": (Batch((inputs,), targets), cross_entropy),
        "inputs in a mapping": (Batch({"input": inputs}, targets), cross_entropy),
    }
    for form, (batch, loss) in forms.items():
        try:
            found = _Bound(make(), replace(case, batch=batch)).estimate(loss=loss)
        except CheckFailed:
            raise
        except Exception as cause:
            raise CheckFailed(f"{form}: expected an estimate, found {type(cause).__name__}: {cause}") from cause
        expect_close(found.losses.mean(), expected.losses.mean(), f"the mean of the losses for {form}", "the same")
        for name, gradient in expected.gradients.items():
            what = f"the gradient of {name} for {form}"
            expect_close(found.gradients[name], gradient, what, "that of a tensor and a loss a sample")


def _check_own_randomness(make: Callable[[], Any], case: Case) -> None:
    with without_global_randomness("randomness"):
        first = _Bound(make(), case).estimate()
    bound = _Bound(make(), case)
    for again, meaning in (
        (bound.estimate(), "a fresh instance"),
        (bound.estimate(), "a second call of the same step"),
    ):
        for name, gradient in first.gradients.items():
            same = torch.equal(again.gradients[name], gradient)
            expect(same, f"the gradient of {name}", f"{meaning} to estimate the same", "another")


def _check_resumed(make: Callable[[], Any], case: Case) -> None:
    whole, resumed = _Bound(make(), case), _Bound(make(), case)
    for step in range(STEPS):
        whole.estimate(step)
    state = whole.estimator.state()
    sound = isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())
    expect(sound, "state", "a mapping of names to tensors, as it is checkpointed", state)
    resumed.estimator.load_state({name: value.clone() for name, value in state.items()})
    expected, found = whole.estimate(STEPS), resumed.estimate(STEPS)
    for name, gradient in expected.gradients.items():
        same = torch.equal(found.gradients[name], gradient)
        expect(same, f"a resumed run's gradient of {name}", "that of the uninterrupted one", "another")


def _check_unbiased(make: Callable[[], Any]) -> None:
    """All parameters together, along the gradient and fixed directions.

    The number of estimates follows from the spread of others, so that it does not depend on what is tested.
    """
    model = chain(widths=(4, 5, 3))
    batch = batch_for(model)
    copies = Batch(batch.inputs[2:3].expand(COPIES, -1).contiguous(), batch.targets[2:3].expand(COPIES))
    case = Case("a small network", model, copies)
    parameters = dict(model.named_parameters())
    with torch.enable_grad():
        loss = cross_entropy(model(case.batch.inputs), case.batch.targets).mean()
        true = _flat(dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True)))
    bound = _Bound(make(), case)
    pilot = torch.stack([_flat(bound.estimate(step).gradients) for step in range(PILOT)])
    along = pilot @ true / true.norm()
    spread = float(along.std() / torch.maximum(true.norm(), along.mean().abs()))
    number = min(MOST, max(PILOT, math.ceil((6 * spread / BIAS) ** 2)))
    steps = range(PILOT, PILOT + number)
    estimates = torch.stack([_flat(bound.estimate(step).gradients) for step in steps])
    expect_mean(estimates @ true / true.norm(), float(true.norm()), "the estimate along the gradient")
    for number in range(DIRECTIONS):
        u = torch.randn(len(true), generator=torch.Generator().manual_seed(number), dtype=true.dtype)
        expect_mean(estimates @ u / u.norm(), float(true @ u / u.norm()), "the estimate along a direction")


def _flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])
