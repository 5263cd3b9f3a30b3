"""Looks a model over: which methods train it, what they train, and what a step of each takes, all findings at once."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fgcli.api import ForwardGradient
from fgcli.bench.measure import peak_of
from fgcli.devices import synchronize
from fgcli.errors import FgError, exception_text
from fgcli.extend.registry import METHOD_KINDS, load_registry
from fgcli.gradient.buffers import untouched
from fgcli.gradient.errors import LossRefused, ModelRefused, OptionRefused
from fgcli.gradient.estimator import Coverage
from fgcli.gradient.nested import first_tensor
from fgcli.recipe import parse_assignments

BASE = ("backprop", "backprop-checkpoint")
"""What the others are compared with."""
CONTROLS = ("wperp-bottom",)
"""Methods that are not for training."""
STEPS, ENOUGH_S = 11, 2.0
"""Steps that are timed at most, and the seconds after which they are enough. One step of ten may take more."""


@dataclass(frozen=True)
class CheckedMethod:
    """What was found of one method."""

    method: str
    refusal: str = ""
    """Why it cannot train the model; empty where it can."""
    first_s: float | None = None
    """Seconds of the first step, which looks the model over."""
    step_s: float | None = None
    """The median of later steps."""
    peak_bytes: int | None = None
    """What one step holds at its peak beyond what it found: of tensors, gradients included."""


@dataclass(frozen=True)
class CheckedModel:
    """What `check_model` found."""

    parameters: int
    """Numbers that are trained."""
    frozen: int
    """Numbers that require no gradient."""
    coverage: Coverage | None
    """How guess methods train each parameter; None where they cannot."""
    methods: tuple[CheckedMethod, ...]


def check_model(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    loss_fn: Callable[[Any, Any], Tensor] | None = None,
    methods: Sequence[str] | None = None,
) -> CheckedModel:
    """Which methods train a model, and what a step of each takes, beside backpropagation, with and without checkpoints.

    The model, its gradients, its buffers and torch's generators are left as they were.

    Args:
        model: the model.
        inputs: a batch, as `ForwardGradient.step` takes it. Times and memory are those of this batch.
        targets: what `loss_fn` is given.
        loss_fn: as of `ForwardGradient.step`; None: the model gives its own loss.
        methods: names, with options after colons (`wperp:solver=krylov`); None: all that are registered, and
            activation perturbation with feedback.

    Returns:
        What was found, a method that refuses the model among it.
    """
    if methods is None:
        registry = load_registry()
        known = [one.entry.name for kind in METHOD_KINDS for one in registry.registered(kind)]
        rest = [name for name in dict.fromkeys(known) if name not in (*BASE, *CONTROLS)]
        methods = [*BASE, *rest, "activation-perturbation:feedback=local"]
    found: list[CheckedMethod] = []
    coverage = None
    with _left_alone(model, inputs):
        for name in methods:
            one, covered = _checked(name, model, inputs, targets, loss_fn)
            found.append(one)
            if covered is not None and covered.sites and name.partition(":")[0] not in BASE:
                coverage = coverage or covered
    numbers = [(p.numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(n for n, requires_grad in numbers if requires_grad)
    return CheckedModel(trained, sum(n for n, _ in numbers) - trained, coverage, tuple(found))


def _checked(
    name: str, model: nn.Module, inputs: Any, targets: Any, loss_fn: Any
) -> tuple[CheckedMethod, Coverage | None]:
    method, *assignments = name.split(":")
    device = first_tensor(inputs).device
    try:
        options: dict[str, Any] = parse_assignments(assignments)
        gradient = ForwardGradient(model, method, **options)

        def step() -> float:
            model.zero_grad()
            synchronize(device)
            begun = time.perf_counter()
            gradient.step(inputs, targets, loss_fn)
            synchronize(device)
            return time.perf_counter() - begun

        first = step()
        named = ((name, p.grad) for name, p in model.named_parameters())
        if fault := next((name for name, g in named if g is not None and not bool(g.isfinite().all())), ""):
            return CheckedMethod(name, f"the gradient of {fault} is not finite", first), gradient.coverage
        later: list[float] = []
        while len(later) < STEPS and sum(later) < ENOUGH_S:
            later.append(step())
        peak = peak_of(step, device)
    except (FgError, ModelRefused, OptionRefused, LossRefused) as refusal:
        return CheckedMethod(name, str(refusal)), None
    except Exception as error:
        return CheckedMethod(name, f"it fails: {exception_text(error)}"), None
    return CheckedMethod(name, "", first, statistics.median(later), peak), gradient.coverage


@contextmanager
def _left_alone(model: nn.Module, inputs: Any) -> Iterator[None]:
    """Within it gradients, buffers and generators may change; afterwards they are as before."""
    gradients = [(p, p.grad) for p in model.parameters()]
    with torch.no_grad():
        for p, _ in gradients:
            p.grad = None
    try:
        with untouched(model, first_tensor(inputs).device), torch.enable_grad():
            yield
    finally:
        for p, before in gradients:
            p.grad = before
