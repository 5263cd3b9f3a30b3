"""fg in a training loop of one's own: `from fgcli import ForwardGradient`."""

import copy
import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from fgcli.errors import UsageError, exception_text
from fgcli.extend.entry_options import checked_options
from fgcli.extend.options import GuessOptions, with_engine_options
from fgcli.extend.registry import load_registry
from fgcli.gradient.checked import Guess
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimator, Loss
from fgcli.gradient.randomness import Streams, layers_again
from fgcli.gradient.sites import refuse_frozen
from fgcli.guesses.driven import driven


class ForwardGradient:
    """Gradients of a model's mean loss by any method, in place of `loss.backward()`.

    model: maps one tensor [batch, ...] to another; samples must not mix. It may be on any device, and change between
    steps: its weights, modes, and which parameters require a gradient.
    method: a name that `fg methods` lists, the instance of a guess method, or that of an estimator.
    seed: with the number of steps so far, it names every draw; torch's own generators are left alone,
        but by layers that draw from them (Dropout).
    options: the method's, by the names that `fg methods` lists (`k`, `tangents`, `combine`, `uncovered`, ...).

    Raises UsageError for an unknown method or option and for a value that an option cannot have, OptionRefused for
    options that this method cannot have together.
    """

    def __init__(
        self, model: nn.Module, method: str | Guess | Estimator = "wperp", *, seed: int = 0, **options: Any
    ) -> None:
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed!r}; it must be a whole number from 0 to below 2^63")
        self.model = model
        self.steps = 0
        """Calls of `step` so far."""
        self.coverage: Coverage | None = None
        """How each parameter is trained; known after the first step."""
        self._estimator = _estimator(method, options)
        self._method = method if isinstance(method, str) else type(method).__name__
        self._seed = seed
        self._bound_to: object = None
        self._state: dict[str, Tensor] = {}  # to be taken up by the next `bind`

    def step(self, x: Tensor, y: Tensor, loss_fn: Callable[..., Tensor]) -> Tensor:
        """Add the estimate for the batch x, y [batch, ...] to `.grad` of the parameters, as `backward` does.

        Returns the mean loss, a detached tensor without axes. The gradient is that of this mean.
        loss_fn(outputs, targets) gives a loss a sample, [batch]. A loss of torch (or any other that has a `reduction`)
        may be given as it is, with reduction "mean", class weights and ignored targets included.

        The first step, and any after a change of what the model is or takes, looks the model over first: it raises
        ModelRefused, which names the layer and the mend, for one that the method cannot train. UsageError for inputs
        and losses that are not as said above, or that the method cannot follow.
        """
        if not (isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() and y.dim() and len(x) == len(y) > 0):
            found = " and ".join(str(list(one.shape)) if isinstance(one, Tensor) else str(type(one)) for one in (x, y))
            raise UsageError(f"x and y are {found}; they must be tensors of the same number of samples, [batch, ...]")
        if torch.is_inference_mode_enabled():
            raise UsageError("step is called in torch.inference_mode(), which has no tangents; leave it out")
        self._bind(x)
        rng = Streams(self._seed).at(self.steps)
        estimate = self._estimator.estimate(self.model, per_sample(loss_fn, y), Batch(x, y), rng)
        for name, parameter in self.model.named_parameters():
            gradient = estimate.gradients.get(name)
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.steps += 1
        return estimate.losses.mean()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed loop needs beside model and optimiser: seed, steps, and what the method keeps."""
        bound = self._bound_to is not None
        kept = self._estimator.state() if bound else self._state
        return {"seed": self._seed, "steps": self.steps, "method": self._method, "kept": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of another instance with the same method and model.

        UsageError for any other state; that of another model is a ModelRefused in the next step.
        """
        expected = {"seed", "steps", "method", "kept"}
        if state.keys() != expected:
            raise UsageError(f"the state has the keys {sorted(state)}; one of ForwardGradient has {sorted(expected)}")
        if state["method"] != self._method:
            raise UsageError(f"the state is that of the method {state['method']}; the method here is {self._method}")
        self._seed, self.steps, self._state = state["seed"], state["steps"], dict(state["kept"])
        self._bound_to = None

    def _bind(self, x: Tensor) -> None:
        """Let the estimator look the model over, unless all that it looks at is as it was."""
        parameters, modules = list(self.model.named_parameters()), self.model.modules()
        for name, one in parameters:
            if isinstance(one, nn.UninitializedParameter):
                raise ModelRefused(
                    f"parameter '{name}' has no shape before the model's first call (a LazyLinear, say); call the "
                    "model once on an input, before the optimiser is made"
                )
        trained = tuple((name, one.device, one.dtype) for name, one in parameters if one.requires_grad)
        looks = tuple((id(one), one.training, *one._forward_hooks, *one._forward_pre_hooks) for one in modules)
        seen = (x.shape[1:], x.dtype, x.device, trained, looks)
        if seen == self._bound_to:
            return
        refuse_frozen(self.model)
        state = self._state if self._bound_to is None else self._estimator.state()
        again = layers_again(x.device)  # what a Dropout draws in a step is what it would have drawn without this look
        self.coverage = self._estimator.bind(self.model, x)
        again()
        self._estimator.load_state(state)
        self._bound_to = seen


def _estimator(method: str | Guess | Estimator, options: dict[str, Any]) -> Estimator:
    if isinstance(method, type):
        raise UsageError(f"method is the class {method.__name__}; it must be an instance, or the name of a method")
    if not isinstance(method, str):
        if hasattr(method, "estimate"):
            if options:
                raise UsageError(f"{next(iter(options))} is given, but an estimator's instance has its options already")
            return cast("Estimator", method)
        return driven(
            cast("Guess", method), checked_options(type(method).__name__, with_engine_options(GuessOptions), options)
        )
    registry = load_registry()
    kind, entry = registry.method(method)
    checked = checked_options(f"method {entry.name}", entry.options, options)
    made = registry.find("method", method).load()(checked)
    return made if kind == "estimator" else driven(made, checked)


def per_sample(loss_fn: Callable[..., Tensor], y: Tensor) -> Loss:
    """The loss as estimators want it, [batch], such that its mean is what `loss_fn` gives for all targets y.

    UsageError for a reduction other than "mean" and "none", and, once it is called, for a loss of another shape, for
    one without forward-mode formula where that is asked for, and for one that other rows than the batch's do not suit.
    """
    samples = len(y)
    reduction, unreduced = _unreduced(loss_fn)
    known: list[tuple[Tensor, Tensor]] = []
    if reduction not in (None, "mean", "none"):
        allowed = "it must be 'mean' or 'none', as the gradient is that of the mean over the samples"
        raise UsageError(f"the loss has reduction {reduction!r}; {allowed}")

    def other_rows(targets: Tensor) -> str:
        return (
            f"it was called with {len(targets)} rows for a batch of {samples}, as it is with several tangents and with "
            "memory=replay: it must use only its arguments (what else belongs to a sample can be put into y)"
        )

    def losses_of(outputs: Tensor, targets: Tensor) -> Tensor:
        try:
            losses = unreduced(outputs, targets)
            if reduction == "mean":
                if not known:  # of the whole batch, whatever part of it is asked for first
                    known.append(_normalisation(loss_fn, unreduced, outputs, y))
                losses = (losses.flatten(1).mean(1) if losses.dim() > 1 else losses) * known[0][0] + known[0][1]
        except UsageError:
            raise
        except Exception as cause:
            reason = exception_text(cause).splitlines()[0]
            if any(sign in reason for sign in ("forward AD", "forward mode AD", "functorch", "vmap")):
                raise UsageError(
                    f"the loss has an operation that forward-mode differentiation cannot follow ({reason}); use "
                    "another operation, or the method backprop"
                ) from cause
            if len(targets) != samples:
                raise UsageError(f"the loss failed ({reason}); {other_rows(targets)}") from cause
            raise
        if len(targets) != samples and isinstance(losses, Tensor) and losses.shape == (samples,):
            raise UsageError(f"the loss gave {list(losses.shape)} for {len(targets)} samples; {other_rows(targets)}")
        if not isinstance(losses, Tensor) or losses.shape != targets.shape[:1]:
            found = list(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
            raise UsageError(
                f"the loss gave {found} for {len(targets)} samples; it must give a number for each, [{len(targets)}], "
                "or have a `reduction` as torch's losses do: functools.partial(cross_entropy, reduction='none')"
            )
        return losses

    return losses_of


def _normalisation(
    loss_fn: Callable[..., Tensor], unreduced: Callable[..., Tensor], outputs: Tensor, y: Tensor
) -> tuple[Tensor, Tensor]:
    """Factor and offset that the losses of single samples need, so that their mean is the one that `loss_fn` has.

    1 and 0, but for class weights and ignored targets: there torch divides by the sum of the targets' weights. It hangs
    on the targets alone, so that any outputs show it; UsageError for a loss where they do not. Of targets that are all
    ignored the mean is NaN and its gradient 0, as torch has it.
    """
    shape = (len(y), *outputs.shape[1:])
    ramp = torch.linspace(0.25, 0.75, math.prod(shape), dtype=outputs.dtype, device=outputs.device).view(shape)
    found = []
    for some in (ramp, ramp.square()):
        whole, mean = loss_fn(some, y), unreduced(some, y).mean()
        ratio = whole / mean
        found.append(torch.where(torch.isfinite(ratio) & (ratio != 0), ratio, 1))
    if not torch.allclose(found[0], found[1], rtol=1e-4):
        raise UsageError(
            "the loss's mean is not one of the losses that it gives with reduction='none', for any outputs: give it as "
            "a loss a sample, [batch], weights included"
        )
    one = torch.ones_like(ratio)
    factor = torch.where(torch.isclose(found[0], one, rtol=0, atol=1e-5), one, found[0])
    return factor, torch.where((mean == 0) & whole.isnan(), torch.nan, 0.0).to(factor)


def _unreduced(loss_fn: Callable[..., Tensor]) -> tuple[str | None, Callable[..., Tensor]]:
    """The reduction of a loss, if it has one, and the loss without it."""
    if isinstance(loss_fn, nn.Module):
        reduction = getattr(loss_fn, "reduction", None)
        if reduction == "mean":
            loss_fn = copy.copy(loss_fn)
            loss_fn.reduction = "none"  # pyright: ignore[reportArgumentType]
        return reduction, loss_fn
    parameters = _parameters(loss_fn)
    if "reduction" not in parameters:
        return None, loss_fn
    return parameters["reduction"].default, partial(loss_fn, reduction="none")


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # one written in C
        return {}
