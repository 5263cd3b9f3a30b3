"""Rows and a result logged from a training loop of one's own, in a directory that `fgcli report` reads."""

from os import PathLike
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import torch
from pydantic import ValidationError

from fgcli.devices import list_devices, peak_memory_bytes
from fgcli.errors import UsageError, unknown
from fgcli.extend.explain import first_fault
from fgcli.extend.own_code import own_code
from fgcli.recipe import dump
from fgcli.recipe_keys import Recipe
from fgcli.runs import run_directory
from fgcli.runs.record import name_of
from fgcli.runs.results import METRICS, Metrics, MetricsRow, Result
from fgcli.runs.run_directory import RunDirectory
from fgcli.training.environment import describe_environment

_OWN = {"loss": "own", "optimizer": "own", "lr_schedule": "own"}
"""What a loop of one's own has, unless it says so: no default of fg's."""


class RunLog:
    """A run that is logged row by row. Leaving the `with` block finishes it; an exception leaves it unfinished."""

    def __init__(self, run: RunDirectory, recipe: Recipe) -> None:
        self.path = run.path
        self._run, self._recipe, self._started = run, recipe, perf_counter()
        self._last: MetricsRow | None = None

    def log(
        self,
        step: int,
        epoch: float,
        *,
        train_loss: float,
        test_loss: float,
        train_accuracy: float | None = None,
        test_accuracy: float | None = None,
    ) -> None:
        """Write what an evaluation measured.

        Args:
            step: updates so far; more than in the row before.
            epoch: passes over the training set so far.
            train_loss: mean loss of the training samples.
            test_loss: mean loss of the test samples.
            train_accuracy: share of the training samples that are right, from 0 to 1.
            test_accuracy: the same of the test samples.

        Raises:
            UsageError: for numbers that are not finite or out of bounds, and for a step that is no later one.
            RunError: where the row cannot be written.
        """
        metrics = Metrics(
            train_accuracy=None if train_accuracy is None else _checked(Metrics.train_accuracy, train_accuracy),
            test_accuracy=None if test_accuracy is None else _checked(Metrics.test_accuracy, test_accuracy),
            train_loss=_checked(Metrics.train_loss, train_loss),
            test_loss=_checked(Metrics.test_loss, test_loss),
        )
        if self._last is not None and step <= self._last.step:
            raise UsageError(f"step is {step}; it must be above {self._last.step}, that of the row before")
        self._last = MetricsRow(int(step), float(epoch), metrics, perf_counter() - self._started)
        self._run.append_metrics(self._last)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and (last := self._last) is not None:
                result = Result(
                    recipe=self._recipe.model_dump(mode="json"),
                    steps=last.step,
                    metrics=last.metrics,
                    wall_s=perf_counter() - self._started,
                    step_ms_median=None,
                    peak_memory_bytes=peak_memory_bytes(torch.device(self._recipe.device)),
                    run_dir=str(self.path),
                )
                self._run.write_result(result)
        finally:
            self._run.release()


def open_run(
    path: str | PathLike[str],
    *,
    method: str,
    dataset: str,
    model: str,
    epochs: int,
    batch_size: int,
    lr: float,
    device: str = "cpu",
    **recipe: Any,
) -> RunLog:
    """Begin the record of a training loop of one's own: `with fgcli.open_run("runs/mine", ...) as run: run.log(...)`.

    Args:
        path: the run's folder, a new or an empty one.
        method: what tables and figures call it.
        dataset: the name of the data. With `model` and the rest it tells runs that may be compared.
        model: the name of the network.
        epochs: passes over the training set.
        batch_size: samples of an update.
        lr: the learning rate.
        device: where the loop computes: "cpu", "cuda:0".
        recipe: other keys of a recipe, as `fgcli recipes schema` lists them: `seed`, `width`, `optimizer`.

    Returns:
        What the rows are logged to.

    Raises:
        UsageError: for a folder that is taken, and for keys or values that no recipe has.
    """
    given = {"method": method, "dataset": dataset, "model": model, "epochs": epochs, "batch_size": batch_size, "lr": lr}
    data: dict[str, Any] = {"threads": torch.get_num_threads(), **_OWN, **given, "device": device, **recipe}
    for key in recipe:
        if key not in Recipe.model_fields:
            raise unknown("recipe key", key, Recipe.model_fields, where="open_run")
    try:
        made = Recipe.model_validate(data)
    except ValidationError as error:
        where, sentence = first_fault(error, data)
        raise UsageError(f"open_run: {'.'.join(map(str, where))} {sentence}") from error
    if device not in list_devices():
        raise UsageError(f"open_run: device is {device!r}; it must be one of {', '.join(list_devices())}")
    run = run_directory.create(Path(path), method, called="open_run: path")
    with run.released_on_error():
        run.describe(dump(made), describe_environment(torch.device(device), code=own_code(())))
    return RunLog(run, made)


def _checked(field: object, value: float) -> float:
    """UsageError for what no row can hold."""
    name, number = name_of(field), float(value)
    if fault := METRICS[name].fault(number):
        raise UsageError(f"{name} is {number:g}; {fault}")
    return number
