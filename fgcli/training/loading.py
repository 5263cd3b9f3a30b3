"""Trained networks, from the directories of their runs: to be used, measured on data, or given to other programs."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from fgcli.data.arrays import as_inputs, read_arrays
from fgcli.data.dataset import Dataset, Standardise, Tokens
from fgcli.data.options import CsvOptions, TableOptions
from fgcli.data.tables import numbers_of, read_csv, read_parquet
from fgcli.errors import PluginMissing, RunError, UsageError, exception_text
from fgcli.extend.own_code import changed_files
from fgcli.extend.registry import Registry, load_registry
from fgcli.gradient.local_losses import LocalLosses
from fgcli.gradient.randomness import Streams
from fgcli.recipe import read_recipe
from fgcli.recipe_keys import Recipe, Section
from fgcli.runs.results import Metrics
from fgcli.runs.run_directory import ModelRecord, RunDirectory, read_run
from fgcli.training.assembly import load_dataset, make_model, make_objective, on_device
from fgcli.training.checkpoints import store_of
from fgcli.training.environment import digest
from fgcli.training.evaluation import BATCH, measure
from fgcli.training.start import recipe_of
from fgcli.training.state import load_weights

_log = logging.getLogger("fgcli")


class LoadedModel(nn.Module):
    """A trained network behind its preprocessing: it takes inputs as the data have them, not standardised.

    `network` is the model that was trained; `preprocessing` says and does what its inputs went through.
    """

    def __init__(self, preprocessing: Standardise, network: nn.Module) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs [batch, outputs] of inputs [batch, ...features].

        Args:
            inputs: as the data have them.

        Returns:
            What the network gives: logits, for classes.
        """
        return self.network(self.preprocessing(inputs))


def load_model(run: str | PathLike[str], plugins: Iterable[str | PathLike[str]] = ()) -> LoadedModel:
    """The network of a run with the weights of its newest checkpoint, in eval mode, on the CPU.

    The data are not needed, a model of your own is: its module is imported again.

    Args:
        run: the run's folder, finished or not.
        plugins: plugin files that the run was trained with.

    Returns:
        A module that takes inputs as the data have them. Its `network` is the trained nn.Module itself, its
        `preprocessing` what is done before: print it to see.

    Raises:
        UsageError: where there is no run, or its model cannot be made here.
        RunError: where no checkpoint can be used.
    """
    try:
        return open_trained(Path(run), load_registry(tuple(map(Path, plugins)))).model
    except PluginMissing as missing:
        raise UsageError(f"{missing}: load_model({str(run)!r}, plugins={list(missing.files)!r})") from missing


@dataclass(frozen=True)
class Trained:
    """A run with its trained network."""

    run: RunDirectory
    recipe: Recipe
    """Of which the model alone is looked up: neither the data nor the method need be here."""
    registry: Registry
    record: ModelRecord
    step: int
    model: LoadedModel

    def _dataset(self, recipe: Recipe, *, own: bool) -> Dataset:
        """A recipe's data as this network takes them: standardised as its own, classes numbered as its own.

        UsageError where shapes or classes are not those of the network.
        """
        found, record = load_dataset(recipe, self.registry), self.record
        called, begun = f"dataset {recipe.dataset}", self.run.recorded_environment().data
        if own and begun and begun != digest(found):
            _log.warning("%s holds other samples than it did when %s was begun", called, self.run.path)
        if found.input_shape != record.input_shape:
            shapes = f"{list(found.input_shape)}, and the network takes {list(record.input_shape)}"
            raise UsageError(f"{called}: an input has shape {shapes}; give data of that shape")
        if record.labels != (not found.train_targets.is_floating_point()):
            kinds = ("numbers", "classes") if record.labels else ("classes", "numbers")
            raise UsageError(f"{called}: its targets are {kinds[0]}, and the network was trained for {kinds[1]}")
        if (names := found.input_names) != (own_names := record.input_names) and names and own_names:
            order = f"--dataset-option columns=[{','.join(own_names)}]"
            raise UsageError(
                f"{called}: its columns are {', '.join(names)}, and the network's others, or others first: {order}"
            )
        found = self._numbered(found, called)
        if record.tokens != isinstance(found.preprocessing, Tokens):
            kinds = ("numbers", "tokens") if record.tokens else ("tokens", "numbers")
            raise UsageError(f"{called}: its inputs are {kinds[0]}, and the network was trained on {kinds[1]}")
        step, other = self.model.preprocessing, found.preprocessing
        if torch.equal(step.mean, other.mean) and torch.equal(step.deviation, other.deviation):
            return found
        inputs = {name: step(other.undo(getattr(found, name))) for name in ("train_inputs", "test_inputs")}
        return replace(found, **inputs)

    def _numbered(self, found: Dataset, called: str) -> Dataset:
        """With the numbers that the network has for the classes."""
        names, own = found.class_names, self.record.class_names
        if not (self.record.labels and names and own):
            too_many = found.classes > self.record.classes or not self.record.labels
            if too_many and found.classes != self.record.classes:
                unit = "classes" if self.record.labels else "numbers a target"
                raise UsageError(f"{called}: it has {found.classes} {unit}, and the network {self.record.classes}")
            return replace(found, classes=self.record.classes)
        if strange := [name for name in names if name not in own]:
            raise UsageError(f"{called}: class {strange[0]!r} is none of the network's: {', '.join(own)}")
        numbers = torch.tensor([own.index(name) for name in names])
        targets = {name: numbers[getattr(found, name)] for name in ("train_targets", "test_targets")}
        return replace(found, classes=self.record.classes, class_names=own, **targets)

    def evaluate(self, data: Mapping[str, object], device: torch.device) -> tuple[str, Metrics]:
        """A dataset's name, and loss and accuracy on both of its splits.

        `data`: keys of a recipe, over the run's: another dataset, or other options of it.
        """
        other = data.get("dataset") not in (None, read_recipe(self.run.recipe_file).data.get("dataset"))
        sections: tuple[Section, ...] = ("model", "loss") if other else ("model", "loss", "dataset")
        recipe = recipe_of(self.run.path, self.registry, sections, data)
        found = on_device(self._dataset(recipe, own=not any(data.values())), device)
        objective = make_objective(recipe, self.registry, found)
        network = self.model.to(device).network
        with Streams(self.recipe.seed).for_layers("evaluation", self.step, device):
            return recipe.dataset, measure(network, objective, found)

    def read_inputs(self, path: Path) -> Tensor:
        """Inputs that `predict` takes, from a file of arrays or a table. UsageError where it holds none."""
        kind, csv = path.suffix.lower(), self._csv_options()
        if path.is_dir():
            raise UsageError(f"{path} is a folder; inputs are a file: .npz, .npy, .csv or .parquet")
        if kind not in (".csv", ".parquet"):
            arrays = read_arrays(path)
            if "inputs" not in arrays and len(arrays) != 1:
                raise UsageError(f"{path} holds {', '.join(arrays) or 'nothing'}; it must hold the array inputs")
            name = "inputs" if "inputs" in arrays else next(iter(arrays))
            inputs = as_inputs(arrays[name], f"{name} of {path}")
        else:
            columns, places = read_csv(path, csv) if kind == ".csv" else read_parquet(path, TableOptions())
            names = self.record.input_names or tuple(columns)
            if missing := [name for name in names if name not in columns]:
                known = f"of which {self.run.path} was trained; it has {', '.join(columns)}"
                nameless = list(columns) == [str(number) for number in range(len(columns))]
                fix = "; name its columns in its first line" if nameless and kind == ".csv" else ""
                raise UsageError(f"{path}: there is no column {missing[0]!r}, {known}{fix}")
            fix = f"give numbers, parted by {csv.delimiter!r}" if kind == ".csv" else "give numbers"
            inputs = as_inputs(numbers_of(columns, names, str(path), places, fix=fix), str(path))
        wanted = ", ".join(map(str, self.record.input_shape))
        if tuple(inputs.shape[1:]) != self.record.input_shape or not len(inputs):
            raise UsageError(f"the inputs have shape {list(inputs.shape)}; they must be [n, {wanted}], n at least 1")
        bad = (~inputs.flatten(1).isfinite()).any(dim=1).nonzero()
        if len(bad):
            raise UsageError(f"input {int(bad[0, 0])} is not finite; inputs must be")
        return inputs

    def _csv_options(self) -> CsvOptions:
        """How the run's own data were read, where they were a .csv file."""
        data = read_recipe(self.run.recipe_file).data
        given = data.get("dataset_options") if str(data.get("dataset")).lower().endswith(".csv") else None
        own = given if isinstance(given, Mapping) else {}
        return CsvOptions(**{key: own[key] for key in ("header", "delimiter") if key in own})

    @torch.no_grad()
    def predict(self, inputs: Tensor, device: torch.device) -> Tensor:
        """Outputs [n, outputs], on the CPU, of what `read_inputs` gave."""
        model = self.model.to(device)
        with Streams(self.recipe.seed).for_layers("evaluation", self.step, device):
            return torch.cat([model(some.to(device)).cpu() for some in inputs.split(BATCH)])

    def classes_of(self, outputs: Tensor) -> Tensor | None:
        """The class that each output is for; None where it says none."""
        if self.record.labels and self.record.outputs == self.record.classes:
            return outputs.argmax(-1)
        return (outputs[:, 0] > 0).long() if self.record.labels and self.record.outputs == 1 else None


def open_trained(path: Path, registry: Registry) -> Trained:
    """A run with its network. Errors as in `load_model`; warns where code of the user's own has changed since."""
    run = read_run(path)
    recipe = recipe_of(path, registry, ["model"])
    record = run.read_model()
    try:
        kind = Tokens if record.tokens else Standardise
        preprocessing = kind(torch.tensor(record.mean), torch.tensor(record.deviation))
        example = preprocessing(torch.zeros(2, *record.input_shape))
    except (TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{run.model_file} is damaged: {exception_text(error)}") from error
    network = make_model(recipe, registry, example, record.outputs, torch.device("cpu"))
    model = LoadedModel(preprocessing, network).eval()
    try:
        with torch.no_grad():
            network(example)  # layers that take their shapes from their first inputs have them then
    except Exception as cause:
        raise UsageError(f"model {recipe.model} fails on inputs of its run: {exception_text(cause)}") from cause
    checkpoint, complaints = store_of(run).load_newest(partial(load_weights, network))
    if checkpoint is None:
        raise UsageError(f"{path} has no checkpoint yet; train it on, or give another run")
    for complaint in complaints:
        _log.warning("%s; the checkpoint before it is used", complaint)
    for file in changed_files(run.recorded_environment().latest_code):
        _log.warning("%s has changed since %s was trained: the network may be another one", file, path)
    if isinstance(network, LocalLosses):
        model.network = network.plain.eval()
    return Trained(run, recipe, registry, record, checkpoint.step, model)
