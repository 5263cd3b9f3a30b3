"""`fg train`: one run, from flags and a recipe to a run directory."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgcli.errors import RunError, UsageError
from fgcli.files import to_json

if TYPE_CHECKING:  # these import torch, or pydantic
    from fgcli.extend.registry import Registry
    from fgcli.training.loop import Training
    from fgcli.training.reporter import Reporter
    from fgcli.training.sinks import Sinks


class Interrupted(RunError):
    """Stopped by Ctrl-C."""

    exit_code = 130


def _option(flag: str, help: str, metavar: str | None = None) -> Any:
    """A flag that is None where it is not given, so that the recipe's value, or the default, holds."""
    return typer.Option(flag, help=help, metavar=metavar)


# The defaults stand in the help texts, as reading them from the schemas would make --help slow; a test compares them.
def train(
    method: Annotated[str | None, _option("--method", "Guess method or estimator (default wt).", "NAME")] = None,
    k: Annotated[
        str | None,
        _option("--k", "Dimension of the guess space, or rank; for methods that have it.", "N|rank"),
    ] = None,
    option: Annotated[
        list[str] | None, _option("--option", "Another option of the method; repeatable.", "KEY=VALUE")
    ] = None,
    dataset: Annotated[str | None, _option("--dataset", "Dataset (default mnist1d).", "NAME")] = None,
    dataset_option: Annotated[
        list[str] | None, _option("--dataset-option", "Option of the dataset; repeatable.", "KEY=VALUE")
    ] = None,
    model: Annotated[str | None, _option("--model", "Model (default mlp).", "NAME")] = None,
    width: Annotated[int | None, _option("--width", "Units of every hidden layer (default 128).", "N")] = None,
    depth: Annotated[int | None, _option("--depth", "Number of hidden layers (default 3).", "N")] = None,
    bias: Annotated[bool | None, _option("--bias/--no-bias", "Give every layer a bias (default --no-bias).")] = None,
    model_option: Annotated[
        list[str] | None, _option("--model-option", "Another option of the model; repeatable.", "KEY=VALUE")
    ] = None,
    epochs: Annotated[int | None, _option("--epochs", "Passes over the training set (default 300).", "N")] = None,
    max_steps: Annotated[
        int | None, _option("--max-steps", "Stop after this many updates, also inside an epoch.", "N")
    ] = None,
    batch_size: Annotated[int | None, _option("--batch-size", "Samples per update (default 512).", "N")] = None,
    lr: Annotated[float | None, _option("--lr", "Learning rate (default 0.0001).", "X")] = None,
    optimizer: Annotated[str | None, _option("--optimizer", "Optimiser (default adamw).", "NAME")] = None,
    optimizer_option: Annotated[
        list[str] | None,
        _option("--optimizer-option", "Option of the optimiser; repeatable.", "KEY=VALUE"),
    ] = None,
    seed: Annotated[
        int | None, _option("--seed", "Names the run's data order, weights and guesses (default 0).", "N")
    ] = None,
    device: Annotated[
        str | None, _option("--device", "Where to compute (default auto).", "auto|cpu|cuda|cuda:N|mps")
    ] = None,
    threads: Annotated[int | None, _option("--threads", "CPU threads; torch's choice if not given.", "N")] = None,
    eval_every: Annotated[
        int | None,
        _option("--eval-every", "Epochs between two evaluations, each with a checkpoint (default 10).", "N"),
    ] = None,
    recipe: Annotated[
        str | None,
        _option("--recipe", "A recipe's file, or the name of a shipped one; flags override it.", "FILE"),
    ] = None,
    out: Annotated[
        Path | None, _option("--out", "The run directory; a fresh one under ./runs if not given.", "DIR")
    ] = None,
    resume: Annotated[
        Path | None, _option("--resume", "Go on with the unfinished run in this directory.", "DIR")
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        _option("--plugin", "Also use the plugin in this Python file, which is executed; repeatable.", "FILE"),
    ] = None,
    sink: Annotated[
        list[str] | None, _option("--sink", "Send metrics to this metric sink, too; repeatable.", "NAME")
    ] = None,
    sink_option: Annotated[
        list[str] | None, _option("--sink-option", "Option of a metric sink; repeatable.", "NAME.KEY=VALUE")
    ] = None,
    json: Annotated[
        bool,
        typer.Option("--json", help="Print result.json, and nothing else, to standard output."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show warnings and errors only.")] = False,
) -> None:
    """Train a network by a gradient estimator."""
    from fgcli.commands.sinks import make_sinks
    from fgcli.extend.registry import load_registry
    from fgcli.recipe import parse_assignments

    if out is not None and resume is not None:
        raise UsageError("--out and --resume are both given; --resume goes on in its own directory")
    overrides = {
        "method": method,
        "options": parse_assignments(option or [], "--option"),
        "k": _number_or_text(k),
        "dataset": dataset,
        "dataset_options": parse_assignments(dataset_option or [], "--dataset-option"),
        "model": model,
        "model_options": parse_assignments(model_option or [], "--model-option"),
        "width": width,
        "depth": depth,
        "bias": bias,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "optimizer_options": parse_assignments(optimizer_option or [], "--optimizer-option"),
        "lr": lr,
        "seed": seed,
        "device": device,
        "threads": threads,
        "eval_every": eval_every,
    }
    registry = load_registry(tuple(plugin or ()))
    sinks = make_sinks(registry, sink or [], sink_option or [])
    make = _prepare(overrides, recipe, out, resume, registry)
    _train(make, sinks, json=json, quiet=quiet)


def _number_or_text(k: str | None) -> object:
    from fgcli.yaml_reader import scalar

    try:
        return None if k is None else scalar(k)
    except ValueError as error:
        raise UsageError(f"--k is {error}") from error


def _prepare(
    overrides: dict[str, object], recipe: str | None, out: Path | None, resume: Path | None, registry: "Registry"
) -> "Callable[[Reporter], Training]":
    """What makes the training, once a reporter is there. Most of what is refused is refused here."""
    from fgcli.recipe import read_recipe, resolve
    from fgcli.recipes import find
    from fgcli.training.run_directory import check_free

    source = None if recipe is None else read_recipe(find(recipe))
    if resume is None:
        # Refused, if at all, before torch is loaded, which takes seconds.
        resolved = resolve(source, overrides, registry)
        if out is not None:
            check_free(out)
        from fgcli.training.start import begin

        return partial(begin, resolved, out, registry)
    from fgcli.training import start

    return partial(start.resume, resume, source, overrides, registry)


def _train(make: "Callable[[Reporter], Training]", sinks: "Sinks", *, json: bool, quiet: bool) -> None:
    from fgcli.commands.display import Display, WarningsOnly, show_result
    from fgcli.training.sinks import SinkReporter

    result: dict[str, Any] | None = None
    with WarningsOnly() if quiet else Display(to_stderr=json) as display:
        training = make(display)
        training.reporter = reporter = SinkReporter(display, sinks)
        try:
            result = training.run()
        except KeyboardInterrupt as interrupt:
            raise Interrupted(
                f"interrupted after step {training.step}; go on with: fg train --resume {training.run_directory.path}"
            ) from interrupt
        finally:
            reporter.finished(result)
    if json:
        print(to_json(result))
    elif not quiet and result is not None:
        show_result(result)
