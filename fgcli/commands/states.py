"""The states of networks that diagnostics look at: checkpoints of runs, or of runs trained for it. Imports torch."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgcli.commands.display import Display
from fgcli.commands.run_flags import RunFlags
from fgcli.diagnostics.batches import draw_batch
from fgcli.diagnostics.subject import Subject
from fgcli.errors import RunError, UsageError
from fgcli.extend.registry import Registry
from fgcli.gradient.estimator import Batch
from fgcli.recipe import Source, flag, parse_assignments, read_recipe, resolve
from fgcli.recipe_keys import Recipe, section_keys
from fgcli.runs.run_directory import read_run
from fgcli.training.assembly import Assembly, assemble, bound_subject
from fgcli.training.checkpoints import store_of
from fgcli.training.start import begin, recipe_of
from fgcli.training.state import restore

_OF_THE_LOOK = ("device", "threads", "batch_size")  # flags that do not say what is trained


@dataclass(frozen=True)
class State:
    """A network as it was after `step` updates of a run."""

    run: Path
    step: int
    epoch: float
    assembly: Assembly

    @property
    def label(self) -> str:
        recipe = self.assembly.recipe
        width = "" if recipe.width is None else f" of width {recipe.width}"
        return f"{recipe.method}{width} at epoch {self.epoch:g} ({self.run})"

    def batches(self, number: int) -> list[Batch]:
        """Training batches of the recipe's size, from streams of their own."""
        data, recipe = self.assembly.dataset, self.assembly.recipe
        return [
            draw_batch(data.train_inputs, data.train_targets, recipe.batch_size, self.assembly.streams, index)
            for index in range(number)
        ]

    def described(self) -> dict[str, Any]:
        """For JSON."""
        recipe = self.assembly.recipe
        return {
            "run": str(self.run),
            "trained_by": recipe.method,
            "width": recipe.width,
            "seed": recipe.seed,
            "epoch": self.epoch,
            "step": self.step,
            "batch_size": recipe.batch_size,
        }


@dataclass(frozen=True)
class Method:
    """A method with its options, as `NAME` or `NAME:key=value,key=value` names it."""

    name: str
    options: Mapping[str, object]

    @classmethod
    def parse(cls, text: str) -> "Method":
        name, colon, options = text.rpartition(":")
        if not colon or "=" not in options:  # `name` alone, or `distribution:name`
            name, options = text, ""
        return cls(name, parse_assignments([part for part in options.split(",") if part], f"--method {name}:"))

    @property
    def label(self) -> str:
        return ":".join([self.name, ",".join(f"{key}={value}" for key, value in self.options.items())]).rstrip(":")

    def check(self, registry: Registry) -> None:
        """UsageError where this installation has no such method."""
        head, colon, rest = self.name.partition(":")
        if colon and head in registry.method_names():  # not a distribution, then, but options that are none
            raise UsageError(f"--method {head}: is {rest!r}; it must be key=value")
        registry.find("method", self.name, where="--method")

    def over(self, recipe: Recipe, registry: Registry) -> Recipe:
        """The recipe with this method in place of its own. UsageError for what the method does not know."""
        dumped = recipe.model_dump(mode="json")
        rest = {key: value for key, value in dumped.items() if key not in section_keys("method")}
        try:
            return resolve(Source("the run's recipe", rest), {"method": self.name, "options": self.options}, registry)
        except UsageError as error:
            raise UsageError(f"--method {self.label}: {str(error).removeprefix('--option ')}") from error

    def at(self, state: State, registry: Registry) -> Subject:
        """The method at a state, from a cold start. UsageError where it cannot work with the model."""
        return bound_subject(self.over(state.assembly.recipe, registry), registry, state.assembly, state.step)


def own_method(state: State, registry: Registry) -> Subject:
    """The method that trained the run, with the warm starts that it had there."""
    subject = bound_subject(state.assembly.recipe, registry, state.assembly, state.step)
    subject.estimator.load_state({name: t.clone() for name, t in state.assembly.estimator.state().items()})
    return subject


def epochs_of(text: str | None) -> list[int]:
    """`10,100,300`; none for None. UsageError for anything but epochs from 1 up."""
    parts = [] if text is None else [part.strip() for part in text.split(",")]
    if bad := [part for part in parts if not part.isascii() or not part.isdigit() or int(part) < 1]:
        raise UsageError(f"--epochs is {text}, with {bad[0]!r} in it; it must be whole numbers from 1 up: 10,100,300")
    return sorted({int(part) for part in parts})


def train_for(flags: RunFlags, epochs: Sequence[int], registry: Registry, more: Mapping[str, object] = {}) -> Path:
    """Train what the flags of train say, `more` over them, with checkpoints at `epochs`; the run directory."""
    overrides = flags.overrides() | dict(more)
    if epochs:
        overrides |= {"epochs": epochs[-1], "keep_checkpoints": list(epochs)}
    recipe = resolve(flags.source(), overrides, registry)
    with Display(to_stderr=True) as display:
        training = begin(recipe, flags.out, registry, display)
        training.run()
    return training.run_directory.path


def refuse_run_flags(flags: RunFlags) -> None:
    """Where runs are given, nothing is trained."""
    files = {"recipe": flags.recipe, "out": flags.out}
    given = [key for key, value in {**flags.given, **files}.items() if value is not None and key not in _OF_THE_LOOK]
    if given:
        raise UsageError(f"{flag((given[0],))} says what to train, and a run is given too; leave one of them out")


def states_of(path: Path, epochs: Sequence[int], flags: RunFlags, registry: Registry) -> list[State]:
    """The states of a finished or interrupted run: the newest checkpoint's, or those at `epochs`.

    Of `flags`, device, threads and batch_size count. UsageError for a folder without a run or without the checkpoints,
    for checkpoints that cannot be used, and for a method that this installation does not know.
    """
    directory = read_run(path)
    of_run = recipe_of(path, registry)
    source = read_recipe(directory.recipe_file)
    look = {name: value for name, value in flags.overrides().items() if name in _OF_THE_LOOK}
    given = resolve(source, look, registry)
    recipe = given.model_copy(update={"threads": look.get("threads"), "diagnostics": [], "subspace": None})
    store = store_of(directory)
    if not store.steps():
        raise UsageError(f"{path} has no checkpoint yet; train it on, or give another run")
    samples = len(assemble(recipe, registry).dataset.train_inputs)
    per_epoch = math.ceil(samples / of_run.batch_size)
    by_epoch = {step / per_epoch: step for step in store.steps()}
    if missing := [epoch for epoch in epochs if epoch not in by_epoch]:
        raise UsageError(
            f"{path} has no checkpoint of epoch {missing[0]}; it has those of epochs "
            f"{', '.join(f'{epoch:g}' for epoch in by_epoch)} (fgcli train --keep-checkpoints {missing[0]} keeps it)"
        )
    states: list[State] = []
    for epoch in epochs or [max(by_epoch)]:
        assembly = assemble(recipe, registry)
        try:
            restore(assembly, store.load(by_epoch[epoch]))
        except RunError as error:
            raise UsageError(f"{path}: {error}") from error
        assembly.model.eval()
        states.append(State(path, by_epoch[epoch], epoch, assembly))
    return states
