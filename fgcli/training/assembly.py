"""From a recipe to what trains: data, loss, model, estimator, optimiser and learning-rate schedule, each by its name.

Whatever is refused is refused here, before anything is written.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from fgcli.data.dataset import Dataset, Tokens, check
from fgcli.devices import resolve_device
from fgcli.diagnostics.subject import Subject
from fgcli.errors import FgError, UsageError, exception_text, one_line
from fgcli.extend.registry import HOOKS, Registry
from fgcli.gradient.buffers import untouched
from fgcli.gradient.errors import LossRefused, ModelRefused, OptionRefused
from fgcli.gradient.estimator import Batch, Coverage, Estimator, Loss, SettlesOptions
from fgcli.gradient.local_losses import LocalLosses
from fgcli.gradient.low_precision import LowPrecision
from fgcli.gradient.micro_batch import MicroBatched
from fgcli.gradient.precision import lacks
from fgcli.gradient.processes import ALONE, Processes, split
from fgcli.gradient.randomness import Streams
from fgcli.methods.make import make_estimator
from fgcli.models.local_heads import with_local_losses
from fgcli.recipe import section_options
from fgcli.recipe_keys import Recipe, Section
from fgcli.training.losses import Objective
from fgcli.training.recorder import Recorder, make_recorder
from fgcli.training.schedules import advance
from fgcli.training.subspace import SubspaceUpdates

T = TypeVar("T")


@dataclass(frozen=True)
class Assembly:
    """All that a training loop needs; model and data are on the device."""

    recipe: Recipe
    device: torch.device
    dataset: Dataset
    objective: Objective
    model: nn.Module
    estimator: Estimator
    coverage: Coverage
    optimizer: torch.optim.Optimizer
    schedule: LRScheduler
    """Stepped once an update."""
    streams: Streams
    method: str
    """The method with the plugin that it is from, as errors name it."""
    subspace: SubspaceUpdates | None = None
    """Takes part in every step of the optimiser, where the recipe asks for it."""
    recorder: Recorder | None = None
    """Records diagnostics, where the recipe asks for them."""
    processes: Processes = ALONE
    """That train together."""


def settle(recipe: Recipe, registry: Registry) -> Recipe:
    """The recipe with what this machine has for `auto`, for no number of threads, and for files that options name.

    UsageError for a device that is absent, and what the method refuses.
    """
    device = resolve_device(recipe.device)
    threads = recipe.threads or torch.get_num_threads()
    parts = _Parts(recipe, registry)
    method = parts.make("method", object)
    own = parts.guarded("method", method.settled_options) if isinstance(method, SettlesOptions) else {}
    return recipe.model_copy(update={"device": str(device), "threads": threads, "options": recipe.options | own})


def assemble(recipe: Recipe, registry: Registry, data: Dataset | None = None, processes: Processes = ALONE) -> Assembly:
    """Build what a settled recipe names, and set torch's number of threads. `data`: those of `load_dataset`.

    UsageError for a device that is absent, data that cannot be trained on or is smaller than a batch, and a model that
    the method cannot train, or that the processes cannot train together.
    """
    device = processes.device(resolve_device(recipe.device))
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    streams = Streams(recipe.seed)
    parts = _Parts(recipe, registry)
    dataset = on_device(load_dataset(recipe, registry) if data is None else data, device)
    refuse_large_batch(recipe, dataset)
    objective = make_objective(recipe, registry, dataset)
    two = torch.zeros(2, *dataset.input_shape, dtype=dataset.train_inputs.dtype)
    model = make_model(recipe, registry, two, objective.outputs, device)
    _check_outputs(parts, model, dataset, objective)
    refuse_last_batch(recipe, dataset, model)
    if isinstance(model, LocalLosses):
        _refuse_with_local_losses(recipe)
        objective = replace(objective, loss=model.loss_of(objective.loss))
    estimator = _estimator(parts)
    if getattr(estimator, "needs_derivative", True):
        _check_derivative(parts, model, dataset, objective)
    if processes.size > 1:
        _check_split(parts, model, dataset, objective, processes)
    if recipe.precision != "float32":
        dtype = getattr(torch, recipe.precision)
        if reason := lacks(device, dtype):
            raise UsageError(f"--precision is {recipe.precision}, which {device} has not ({reason}); use float32")
        estimator = LowPrecision(estimator, dtype)
    if recipe.micro_batch is not None:
        estimator = MicroBatched(estimator, recipe.micro_batch)
    example = dataset.train_inputs[: recipe.batch_size]
    coverage = parts.guarded("method", lambda: _bound(recipe, estimator, model, example, processes))
    optimizer = parts.make("optimizer", torch.optim.Optimizer, model.parameters(), recipe.lr)
    steps_per_epoch, total_steps = steps_of(recipe, dataset)
    schedule = parts.make("lr_schedule", LRScheduler, optimizer, total_steps, steps_per_epoch)
    method = parts.called("method")
    subspace, recorder = None, None
    if recipe.subspace is not None:
        batch = Batch(dataset.train_inputs, dataset.train_targets)
        subspace = SubspaceUpdates(
            recipe.subspace, recipe.subspace_k, recipe.subspace_every, model, objective.loss, batch, optimizer,
            skips=recipe.on_nonfinite == "skip",
        )  # fmt: skip
    if recipe.diagnostics:
        # An estimator of its own, so that the run's is left as it is; of whole batches.
        twin = _estimator(parts)
        twin_coverage = parts.guarded("method", lambda: _bound(recipe, twin, model, example))
        recorder = make_recorder(recipe, Subject(model, objective.loss, twin, twin_coverage), dataset, streams)
    return Assembly(
        recipe, device, dataset, objective, model, estimator, coverage, optimizer, schedule, streams, method, subspace,
        recorder, processes,
    )  # fmt: skip


def bound_subject(recipe: Recipe, registry: Registry, state: Assembly, step: int) -> Subject:
    """The recipe's method at another assembly's model, after `step` updates there. UsageError where it cannot work."""
    if isinstance(state.model, LocalLosses):
        raise UsageError("the run has local losses; moments and overlaps are of one loss for the whole model")
    parts = _Parts(recipe, registry)
    estimator = _estimator(parts)
    example = state.dataset.train_inputs[: recipe.batch_size]
    coverage = parts.guarded("method", lambda: _bound(recipe, estimator, state.model, example))
    return Subject(state.model, state.objective.loss, estimator, coverage, step)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; then each layer in its own again: a BatchNorm put into eval mode stays there."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@dataclass(frozen=True)
class _Parts:
    """Makes what a recipe names. Whatever a plugin's code raises becomes a UsageError that names it and the plugin."""

    recipe: Recipe
    registry: Registry

    def make(self, section: Section, kind: type[T], *arguments: Any) -> T:
        """Call the target of the section's entry with its options and `arguments`."""
        target = self.registry.find(section, getattr(self.recipe, section)).load()
        options = section_options(self.recipe, section, self.registry)
        made = self.guarded(section, lambda: target(options, *arguments))
        if not isinstance(made, kind):
            raise UsageError(f"{self.called(section)} gave {type(made).__name__}; it must give a {kind.__name__}")
        return made

    def called(self, section: Section) -> str:
        """`method wt of fgcli 0.1.0`, `method half of ./half.py`."""
        name = getattr(self.recipe, section)
        return f"{section} {name} of {self.registry.find(section, name).origin.shown}"

    def guarded(self, section: Section, call: Callable[[], T]) -> T:
        try:
            return call()
        except (FgError, OptionRefused):
            raise
        except (Exception, SystemExit) as cause:
            fault = exception_text(cause)
            raise UsageError(f"{self.called(section)} failed: {fault} (`fgcli --debug ...` shows where)") from cause


def _bound(
    recipe: Recipe, estimator: Estimator, model: nn.Module, example: Tensor, processes: Processes = ALONE
) -> Coverage:
    try:
        split(estimator, processes)
        coverage = estimator.bind(model, example)
    except ModelRefused as refusal:
        raise UsageError(f"method {recipe.method} cannot train model {recipe.model}: {refusal}") from refusal
    except OptionRefused as refusal:
        raise UsageError(f"method {recipe.method} with model {recipe.model}: {refusal}") from refusal
    if not isinstance(coverage, Coverage):
        raise TypeError(f"bind returned {type(coverage).__name__}; it must return a Coverage")
    return coverage


def make_model(recipe: Recipe, registry: Registry, example: Tensor, outputs: int, device: torch.device) -> nn.Module:
    """The recipe's model with the weights that a run begins with, and its local losses. UsageError where it cannot be
    made. `example`: inputs of two samples, whose numbers do not matter."""
    streams, parts, input_shape = Streams(recipe.seed), _Parts(recipe, registry), tuple(example.shape[1:])
    # Drawn on the CPU, so that all devices start from the same weights.
    init = streams.generator("init")
    with streams.for_layers("init-layers", 0, init.device):  # where a model leaves weights to torch's own start
        made = parts.make("model", nn.Module, input_shape, outputs, init)
        if recipe.local_losses is not None:
            at, heads = recipe.local_losses, (recipe.local_head, recipe.local_groups)
            plain, generator = made, streams.generator("local-heads")
            made = parts.guarded("model", lambda: with_local_losses(plain, at, *heads, example, outputs, generator))
    return parts.guarded("model", lambda: made.to(device))  # fails for what is on the meta device, say


def make_objective(recipe: Recipe, registry: Registry, dataset: Dataset) -> Objective:
    """The recipe's loss, for a dataset. UsageError where it cannot be taken of its targets."""
    parts = _Parts(recipe, registry)
    made = parts.make("loss", object, dataset)
    if isinstance(made, Objective):
        return made
    if not callable(made):
        wanted = "it must give an Objective, or a function of outputs and targets"
        raise UsageError(f"{parts.called('loss')} gave {type(made).__name__}; {wanted}")
    return Objective(cast("Loss", made), dataset.classes)


def _check_outputs(parts: _Parts, model: nn.Module, dataset: Dataset, objective: Objective) -> None:
    """UsageError that names the model, or the loss, and no method, where its outputs have not the loss's shape."""
    inputs, targets = _two(dataset)
    try:
        with torch.no_grad(), eval_mode(model):
            outputs = parts.guarded("model", lambda: model(inputs))
    except UsageError as error:
        if not isinstance(dataset.preprocessing, Tokens) or error.__cause__ is None:
            raise
        mend = "use a model of texts, such as gpt-tiny"
        raise UsageError(f"{error}; the inputs of dataset {dataset.name} are tokens: {mend}") from error
    of_tokens = targets.shape[1:] if targets.dtype == torch.int64 else ()
    shape = (len(inputs), *of_tokens, objective.outputs)
    if not isinstance(outputs, Tensor) or outputs.shape != shape:
        found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        each = "a number for each of the classes" if dataset.train_targets.dtype == torch.int64 else "as its targets"
        wanted = f"it must give {list(shape)}, {each}"
        raise UsageError(f"{parts.called('model')} gave {found} for {len(inputs)} samples; {wanted}")
    with torch.no_grad():
        losses = parts.guarded("loss", lambda: objective.loss(outputs, targets))
    if not isinstance(losses, Tensor) or not losses.is_floating_point() or losses.shape not in ((len(inputs),), ()):
        found = f"{losses.dtype} {list(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
        wanted = f"it must give their losses [{len(inputs)}], or the mean of them [], floating point"
        raise UsageError(f"{parts.called('loss')} gave {found} for {len(inputs)} samples; {wanted}")


def _refuse_with_local_losses(recipe: Recipe) -> None:
    """UsageError for what is defined by the derivative of one loss through the whole model."""
    for key, given in (("diagnostics", recipe.diagnostics), ("subspace", recipe.subspace)):
        if given:
            raise UsageError(
                f"--{key} is {', '.join(given) if isinstance(given, list) else given}; it is of one loss for the whole "
                "model: leave it out, or --local-losses"
            )


def _two(dataset: Dataset) -> tuple[Tensor, Tensor]:
    """Two training samples; of tokens one with the largest, which not every model knows."""
    inputs, targets = dataset.train_inputs, dataset.train_targets
    if not isinstance(dataset.preprocessing, Tokens) or len(inputs) < 2:
        return inputs[:2], targets[:2]
    largest = int(inputs.amax(1).argmax())
    chosen = [largest, (largest + 1) % len(inputs)]
    return inputs[chosen], targets[chosen]


def _check_derivative(parts: _Parts, model: nn.Module, dataset: Dataset, objective: Objective) -> None:
    """UsageError for a loss without a derivative."""
    inputs, targets = dataset.train_inputs[:2], dataset.train_targets[:2]
    with torch.no_grad(), eval_mode(model):
        outputs = parts.guarded("model", lambda: model(inputs))
    with torch.enable_grad():
        losses = parts.guarded("loss", lambda: objective.loss(outputs.detach().requires_grad_(), targets))
    if not losses.requires_grad:
        raise UsageError(
            f"{parts.called('loss')} has no derivative, which {parts.called('method')} needs: use another loss, or a "
            "zero-order method (`fgcli methods` lists them)"
        )


def _check_split(parts: _Parts, model: nn.Module, dataset: Dataset, objective: Objective, processes: Processes) -> None:
    """UsageError where batches, or their loss, cannot be split over the processes."""
    samples, size = len(dataset.train_inputs), parts.recipe.batch_size
    if 0 < samples % size < processes.size:
        raise UsageError(
            f"--processes is {processes.size}; the last batch of an epoch has {samples % size} of the {samples} "
            "training samples, fewer than processes: give another --batch-size"
        )
    inputs, targets = dataset.train_inputs[:4], dataset.train_targets[:4]
    with torch.no_grad(), eval_mode(model):
        outputs = parts.guarded("model", lambda: model(inputs))
        try:
            processes.loss(objective.loss)(outputs, targets)
        except LossRefused as refusal:
            raise UsageError(f"{parts.called('loss')} with --processes {processes.size}: {refusal}") from refusal


def steps_of(recipe: Recipe, dataset: Dataset) -> tuple[int, int]:
    """Updates in an epoch, and in all."""
    per_epoch = math.ceil(len(dataset.train_inputs) / recipe.batch_size)
    return per_epoch, min(recipe.epochs * per_epoch, recipe.max_steps or recipe.epochs * per_epoch)


def learning_rates(
    recipe: Recipe, registry: Registry, steps_per_epoch: int, total_steps: int, steps: int
) -> Iterator[list[float]]:
    """The learning rate of each group of parameters after 0, 1, … `steps` updates of a run of `total_steps`."""
    parts = _Parts(recipe, registry)
    optimizer = parts.make("optimizer", torch.optim.Optimizer, [nn.Parameter(torch.zeros(1))], recipe.lr)
    schedule = parts.make("lr_schedule", LRScheduler, optimizer, total_steps, steps_per_epoch)
    for step in range(steps + 1):
        advance(schedule, min(step, 1))
        yield [group["lr"] for group in optimizer.param_groups]


def load_dataset(recipe: Recipe, registry: Registry) -> Dataset:
    """The recipe's data, on the CPU. UsageError for data that cannot be trained on."""
    dataset = _Parts(recipe, registry).make("dataset", Dataset)
    check(dataset)
    return dataset


def refuse_large_batch(recipe: Recipe, dataset: Dataset) -> None:
    """UsageError where a batch has more samples than there are."""
    samples = len(dataset.train_inputs)
    if recipe.batch_size > samples:
        raise UsageError(
            f"--batch-size is {recipe.batch_size}; it must be at most {samples}, the training samples of "
            f"{recipe.dataset}"
        )


def refuse_last_batch(recipe: Recipe, dataset: Dataset, model: nn.Module) -> None:
    """UsageError where the last batch of an epoch has one sample that the model, which is left as it is, does not take.

    BatchNorm, for one, takes no such batch in train mode.
    """
    samples = len(dataset.train_inputs)
    if recipe.batch_size == 1 or samples % recipe.batch_size != 1:
        return
    device = next(model.parameters()).device
    try:
        with torch.no_grad(), untouched(model, device):
            model(dataset.train_inputs[-1:].to(device))
    except Exception as error:
        raise UsageError(
            f"--batch-size is {recipe.batch_size}; the last batch of an epoch then has one of the {samples} samples, "
            f"which the model does not take ({type(error).__name__}: {one_line(str(error))}): use another size"
        ) from error


def on_device(dataset: Dataset, device: torch.device) -> Dataset:
    """The dataset there, its targets in the shape of outputs."""
    return replace(
        dataset,
        train_inputs=dataset.train_inputs.to(device),
        train_targets=_like_outputs(dataset.train_targets).to(device),
        test_inputs=dataset.test_inputs.to(device),
        test_targets=_like_outputs(dataset.test_targets).to(device),
    )


def _like_outputs(targets: Tensor) -> Tensor:
    """Numbers [n] as [n, 1], the shape of a model's outputs: a loss of the two would be taken over all pairs."""
    return targets.unsqueeze(1) if targets.is_floating_point() and targets.dim() == 1 else targets


def _estimator(parts: _Parts) -> Estimator:
    made: Any = parts.make("method", object)
    if parts.registry.find("method", parts.recipe.method).hook == HOOKS["estimator"]:
        return made
    options = section_options(parts.recipe, "method", parts.registry)
    try:
        return parts.guarded("method", lambda: make_estimator(made, options, parts.registry))
    except OptionRefused as refusal:
        raise UsageError(f"{parts.called('method')}: {refusal}") from refusal
