"""From a recipe to what trains: dataset, model, estimator and optimiser, each by its name in the registry.

Whatever is refused is refused here, before anything is written.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fgcli.data.dataset import Dataset, check
from fgcli.devices import resolve_device
from fgcli.errors import UsageError
from fgcli.extend.registry import Registry
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Coverage, Estimator
from fgcli.gradient.forward_gradient import ForwardGradient
from fgcli.gradient.randomness import Streams
from fgcli.recipe import Recipe, section_options


@dataclass(frozen=True)
class Assembly:
    """All that a training loop needs; model and data are on the device."""

    recipe: Recipe
    device: torch.device
    dataset: Dataset
    model: nn.Module
    estimator: Estimator
    coverage: Coverage
    optimizer: torch.optim.Optimizer
    streams: Streams


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Per-sample losses [batch] of logits [batch, classes] and classes [batch]."""
    return F.cross_entropy(outputs, targets, reduction="none")


def settle(recipe: Recipe) -> Recipe:
    """The recipe with the device and the number of threads that this machine has for `auto` and None.

    UsageError for a device that is absent.
    """
    device = resolve_device(recipe.device)
    threads = recipe.threads or torch.get_num_threads()
    return recipe.model_copy(update={"device": str(device), "threads": threads})


def assemble(recipe: Recipe, registry: Registry) -> Assembly:
    """Build what a settled recipe names, and set torch's number of threads.

    UsageError for a device that is absent, data that cannot be trained on or is smaller than a batch, and a model that
    the method cannot train.
    """
    device = resolve_device(recipe.device)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    streams = Streams(recipe.seed)
    dataset = _dataset(recipe, registry, device)
    model = _model(recipe, registry, dataset, streams).to(device)
    estimator = _estimator(recipe, registry)
    try:
        coverage = estimator.bind(model, dataset.train_inputs[: recipe.batch_size])
    except ModelRefused as refusal:
        raise UsageError(f"method {recipe.method} cannot train model {recipe.model}: {refusal}") from refusal
    make_optimizer = registry.entry("optimizer", recipe.optimizer).load()
    optimizer = make_optimizer(section_options(recipe, "optimizer", registry), model.parameters(), recipe.lr)
    return Assembly(recipe, device, dataset, model, estimator, coverage, optimizer, streams)


def _dataset(recipe: Recipe, registry: Registry, device: torch.device) -> Dataset:
    dataset: Dataset = registry.entry("dataset", recipe.dataset).load()(section_options(recipe, "dataset", registry))
    check(dataset)
    samples = len(dataset.train_inputs)
    if recipe.batch_size > samples:
        raise UsageError(
            f"--batch-size is {recipe.batch_size}; it must be at most {samples}, the training samples of "
            f"{recipe.dataset}"
        )
    return replace(
        dataset,
        train_inputs=dataset.train_inputs.to(device),
        train_targets=dataset.train_targets.to(device),
        test_inputs=dataset.test_inputs.to(device),
        test_targets=dataset.test_targets.to(device),
    )


def _model(recipe: Recipe, registry: Registry, dataset: Dataset, streams: Streams) -> nn.Module:
    # Drawn on the CPU, so that all devices start from the same weights.
    make_model = registry.entry("model", recipe.model).load()
    options = section_options(recipe, "model", registry)
    return make_model(options, dataset.input_shape, dataset.classes, streams.generator("init"))


def _estimator(recipe: Recipe, registry: Registry) -> Estimator:
    kind, entry = registry.method(recipe.method)
    options = section_options(recipe, "method", registry)
    target = entry.load()(options)
    if kind == "estimator":
        return target
    # A third party's guess method need not declare the option.
    return ForwardGradient(target, uncovered=getattr(options, "uncovered", "perturb"))
