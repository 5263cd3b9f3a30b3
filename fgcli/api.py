"""fg in a training loop of one's own: `from fgcli import ForwardGradient`."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from fgcli.errors import UsageError
from fgcli.extend.explain import checked_options
from fgcli.extend.options import GuessOptions, with_engine_options
from fgcli.extend.registry import load_registry
from fgcli.gradient.estimator import Batch, Coverage, Estimator
from fgcli.gradient.guess import Guess
from fgcli.gradient.nested import batch_size, described, first_tensor, mapped
from fgcli.gradient.own_loss import OwnLoss, own_loss
from fgcli.gradient.processes import Processes, digest_of, split
from fgcli.gradient.randomness import Streams, layers_again
from fgcli.methods.make import make_estimator
from fgcli.notebook import html_table

if TYPE_CHECKING:
    import torch.distributed as dist


class ForwardGradient:
    """Gradients of a model's mean loss by any method, in place of `loss.backward()`.

    Args:
        model: any module. It may be on any device, and change between steps: its weights, modes, and which parameters
            require a gradient.
        method: a name that `fgcli methods` lists, or the instance of a guess method or of an estimator.
        seed: with the number of steps so far, it names every draw. torch's own generators are not used, except by
            layers that draw from them (Dropout).
        process_group: of torch.distributed, whose processes estimate each batch together. Every one of them gives
            `step` the same whole batch, and computes its own rows of it; all get the gradient that one process would.
            They must have the same weights, seed and options, which is checked. None: this process alone.
        options: the method's, by the names that `fgcli methods` lists (`k`, `tangents`, `combine`, `uncovered`, ...).

    Raises:
        UsageError: for an unknown method or option, and for a value that an option cannot have.
        OptionRefused: for options that this method cannot have together.

    References:
        Baydin et al. 2022, "Gradients without backpropagation", arXiv:2202.08587.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str | Guess | Estimator = "wperp",
        *,
        seed: int = 0,
        process_group: "dist.ProcessGroup | None" = None,
        **options: Any,
    ) -> None:
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UsageError(f"seed is {seed!r}; it must be a whole number from 0 to below 2^63")
        self.model = model
        self.steps = 0
        """Calls of `step` so far."""
        self.coverage: Coverage | None = None
        """How each parameter is trained; known after the first step."""
        self._estimator = _estimator(method, options)
        self._processes = Processes(process_group)
        split(self._estimator, self._processes)
        self._method = method if isinstance(method, str) else type(method).__name__
        self._said = f"{self._method} {seed} {options}"
        self._seed = seed
        self._bound_to: object = None
        self._state: dict[str, Tensor] = {}  # to be taken up by the next `bind`

    def step(self, x: Any, y: Any = None, loss_fn: Callable[[Any, Any], Tensor] | None = None) -> Tensor:
        """Add the estimate for a batch to `.grad` of the parameters, as `backward` does.

        The first step, and any after a change of what the model is, looks the model over first.

        Args:
            x: the inputs: a tensor [batch, ...], a tuple of positional or a mapping of keyword arguments.
            y: the targets, as `loss_fn` takes them.
            loss_fn: (outputs, targets) -> the loss, or a loss a sample [batch], whose mean is it then. Any loss that
                `backward` could take, one in which the samples of a batch see each other too, but for one that
                depends on a weight by itself (a penalty). `outputs` is what the model gives: a tensor, a tuple, a dict,
                a dataclass. None: the model gives its own loss, as those of transformers do whose inputs hold
                `labels`; y is left out then.

        Returns:
            The loss, a detached tensor without axes. The gradient is that of it. With a process group, the loss of this
            process's rows; the gradient is that of the whole batch's.

        Raises:
            ModelRefused: for a model that the method cannot train; names the layer and what to use instead.
            LossRefused: for a loss without a derivative.
            UsageError: for inputs that are none.
            OptionRefused: where the processes of a group differ in weights, seed, options or the first batch, and for a
                batch with fewer samples than processes.
            ProcessGone: where a process of the group does not answer any more.
        """
        if not leaves_of(x) or batch_size(x) < 1:
            raise UsageError(f"x is {described(x)}; it must be a tensor [batch, ...], or a tuple or mapping of tensors")
        if isinstance(y, Tensor) and isinstance(x, Tensor) and y.dim() and len(y) != len(x):
            raise UsageError(f"x and y are {described(x)} and {described(y)}: not the same number of samples")
        shaped = (p for p in self.model.parameters() if not isinstance(p, nn.UninitializedParameter))
        known = {one.dtype for one in shaped if one.is_floating_point()}
        given = {one.dtype for one in leaves_of(x) if one.is_floating_point()}
        if torch.double in given and known and torch.double not in known:
            names = ", ".join(sorted(str(one).removeprefix("torch.") for one in known))
            raise UsageError(f"x is in float64 and the model's weights in {names}: use x.float(), or model.double()")
        if torch.is_inference_mode_enabled():
            raise UsageError("step is called in torch.inference_mode(), which has no tangents; leave it out")
        if loss_fn is None and y is not None:
            raise UsageError("y is given, but no loss_fn: give both, or neither to a model that gives its own loss")
        model = OwnLoss(self.model) if loss_fn is None else self.model
        self._bind(model, x, y)
        rng = Streams(self._seed).at(self.steps)
        estimate = self._estimator.estimate(model, loss_fn or own_loss, Batch(x, y), rng)
        for name, parameter in self.model.named_parameters():
            gradient = estimate.gradients.get(name)
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        self.steps += 1
        return estimate.losses.mean()

    def __repr__(self) -> str:
        sites = "" if self.coverage is None else f", {len(self.coverage.sites)} sites"
        return f"ForwardGradient({self._method}, seed {self._seed}, step {self.steps}{sites})"

    def _repr_html_(self) -> str:
        """A table, for notebooks: what `__repr__` says, and how each parameter is trained once a step has been made."""
        rows = [("method", self._method), ("seed", str(self._seed)), ("steps", str(self.steps))]
        rows += [] if self.coverage is None else [("trained", "\n".join(self.coverage.lines()))]
        return html_table(rows)

    @property
    def bytes_sent(self) -> int:
        """What this process has given to the others of its group, in all steps so far."""
        return self._processes.sent

    def state_dict(self) -> dict[str, Any]:
        """What a resumed loop needs beside model and optimiser.

        Returns:
            The seed, the number of steps, the method's name, and the tensors that the method keeps.
        """
        bound = self._bound_to is not None
        kept = self._estimator.state() if bound else self._state
        return {"seed": self._seed, "steps": self.steps, "method": self._method, "kept": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of another instance with the same method and model.

        Args:
            state: what its `state_dict` gave.

        Raises:
            UsageError: for any other state. That of another model is a ModelRefused in the next step.
        """
        expected = {"seed", "steps", "method", "kept"}
        if state.keys() != expected:
            raise UsageError(f"the state has the keys {sorted(state)}; one of ForwardGradient has {sorted(expected)}")
        if state["method"] != self._method:
            raise UsageError(f"the state is that of the method {state['method']}; the method here is {self._method}")
        self._seed, self.steps, self._state = state["seed"], state["steps"], dict(state["kept"])
        self._bound_to = None

    def _bind(self, model: nn.Module, x: Any, y: Any) -> None:
        """Let the estimator look the model over, unless all that it looks at is as it was."""
        parameters, modules = self.model.named_parameters(), self.model.modules()
        trained = tuple((name, one.device, one.dtype) for name, one in parameters if one.requires_grad)
        looks = tuple((id(one), one.training, *one._forward_hooks, *one._forward_pre_hooks) for one in modules)
        given = tuple((one.dim(), one.dtype, one.device) for one in leaves_of(x))
        seen = (given, trained, looks, model is self.model)
        if seen == self._bound_to:
            return
        self._agree(x, y)
        state = self._state if self._bound_to is None else self._estimator.state()
        again = layers_again(first_tensor(x).device)  # Dropout draws in a step what it would have without this look
        self.coverage = self._estimator.bind(model, x)
        again()
        self._estimator.load_state(state)
        self._bound_to = seen

    def _agree(self, x: Any, y: Any) -> None:
        if self._processes.size == 1:
            return
        device = first_tensor(x).device
        same = {
            "method, seed or option": f"{self._said} {self._seed}",
            "number of steps so far": str(self.steps),
            "batch": digest_of(leaves_of((x, y) if y is not None else x)),
            "model": digest_of([*self.model.parameters(), *self.model.buffers()]),
            "mode": str([one.training for one in self.model.modules()]),
            "state": digest_of(self._state.values()),
        }
        self._processes.agree(same, device)


def _estimator(method: str | Guess | Estimator, options: dict[str, Any]) -> Estimator:
    if isinstance(method, type):
        raise UsageError(f"method is the class {method.__name__}; it must be an instance, or the name of a method")
    if not isinstance(method, str):
        if hasattr(method, "estimate"):
            if options:
                raise UsageError(f"{next(iter(options))} is given, but an estimator's instance has its options already")
            return cast("Estimator", method)
        checked = checked_options(type(method).__name__, with_engine_options(GuessOptions), options)
        return make_estimator(method, checked, load_registry())
    registry = load_registry()
    kind, entry = registry.method(method)
    checked = checked_options(f"method {entry.name}", entry.options, options)
    made = registry.find("method", method).load()(checked)
    return made if kind == "estimator" else make_estimator(made, checked, registry)


def leaves_of(x: Any) -> list[Tensor]:
    """The tensors with axes within inputs."""
    found: list[Tensor] = []
    mapped(lambda value: found.append(value) if isinstance(value, Tensor) and value.dim() else None, x)
    return found
