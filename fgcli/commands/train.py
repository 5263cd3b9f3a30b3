"""`fg train`: one run, from flags and a recipe to a run directory."""

import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgcli.errors import UsageError
from fgcli.files import to_json

if TYPE_CHECKING:  # these import torch, or pydantic
    from fgcli.extend.registry import Registry
    from fgcli.training.loop import Training
    from fgcli.training.reporter import Reporter
    from fgcli.training.sinks import Sinks


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
    tangents: Annotated[
        str | None, _option("--tangents", "Directions in one step, for every guess method (default 1).", "K")
    ] = None,
    combine: Annotated[
        str | None,
        _option("--combine", "How they make one estimate (default mean).", "mean|orthogonal|projection"),
    ] = None,
    tangent_chunk: Annotated[
        str | None, _option("--tangent-chunk", "Tangents carried at a time, for less memory; all if not given.", "N")
    ] = None,
    memory: Annotated[
        str | None,
        _option(
            "--memory",
            "Store what each layer saw, or replay: the same in memory that does not grow with depth (default store).",
            "store|replay",
        ),
    ] = None,
    option: Annotated[
        list[str] | None, _option("--option", "Another option of the method; repeatable.", "KEY=VALUE")
    ] = None,
    dataset: Annotated[str | None, _option("--dataset", "Dataset (default mnist1d).", "NAME")] = None,
    dataset_option: Annotated[
        list[str] | None, _option("--dataset-option", "Option of the dataset; repeatable.", "KEY=VALUE")
    ] = None,
    model: Annotated[
        str | None, _option("--model", "Model, your own as package.module:factory (default mlp).", "NAME")
    ] = None,
    width: Annotated[str | None, _option("--width", "Units of every hidden layer (default 128).", "N")] = None,
    depth: Annotated[str | None, _option("--depth", "Number of hidden layers (default 3).", "N")] = None,
    bias: Annotated[bool | None, _option("--bias/--no-bias", "Give every layer a bias (default --no-bias).")] = None,
    model_option: Annotated[
        list[str] | None, _option("--model-option", "Another option of the model; repeatable.", "KEY=VALUE")
    ] = None,
    epochs: Annotated[str | None, _option("--epochs", "Passes over the training set (default 300).", "N")] = None,
    max_steps: Annotated[
        str | None, _option("--max-steps", "Stop after this many updates, also inside an epoch.", "N")
    ] = None,
    batch_size: Annotated[str | None, _option("--batch-size", "Samples per update (default 512).", "N")] = None,
    micro_batch: Annotated[
        str | None,
        _option("--micro-batch", "Samples estimated at a time, for less memory; the whole batch if not given.", "N"),
    ] = None,
    lr: Annotated[str | None, _option("--lr", "Learning rate (default 0.0001).", "X")] = None,
    optimizer: Annotated[str | None, _option("--optimizer", "Optimiser (default adamw).", "NAME")] = None,
    optimizer_option: Annotated[
        list[str] | None,
        _option("--optimizer-option", "Option of the optimiser; repeatable.", "KEY=VALUE"),
    ] = None,
    seed: Annotated[
        str | None, _option("--seed", "Names the run's data order, weights and guesses (default 0).", "N")
    ] = None,
    device: Annotated[
        str | None, _option("--device", "Where to compute (default auto).", "auto|cpu|cuda|cuda:N|mps")
    ] = None,
    precision: Annotated[
        str | None,
        _option(
            "--precision",
            "In which the network is computed; all else is float32 (default float32).",
            "float32|bfloat16|float16",
        ),
    ] = None,
    threads: Annotated[str | None, _option("--threads", "CPU threads; torch's choice if not given.", "N")] = None,
    eval_every: Annotated[
        str | None,
        _option("--eval-every", "Epochs between two evaluations, each with a checkpoint (default 10).", "N"),
    ] = None,
    keep_checkpoints: Annotated[
        str | None,
        _option("--keep-checkpoints", "Epochs after which a checkpoint is written that is kept.", "N,N,…"),
    ] = None,
    keep_last: Annotated[
        str | None,
        _option("--keep-last", "How many of the newest checkpoints to keep, beside the best (default 2).", "N"),
    ] = None,
    on_nonfinite: Annotated[
        str | None,
        _option(
            "--on-nonfinite",
            "When a loss, guess or gradient is not finite: stop, or leave that update out (default stop).",
            "stop|skip",
        ),
    ] = None,
    diagnostics: Annotated[
        str | None,
        _option(
            "--diagnostics",
            "Record during the run, without changing it: bias, variance, mse, covariance_norm, covariance_rms, cosine, "
            "norm_ratio, effective_rank, overlap.",
            "NAME,NAME,…",
        ),
    ] = None,
    diagnostics_every: Annotated[
        str | None, _option("--diagnostics-every", "Epochs between two records of them (default 10).", "N")
    ] = None,
    subspace: Annotated[
        str | None,
        _option(
            "--subspace",
            "Project each update onto the top eigenvectors of the loss's Hessian, or off them: a control.",
            "dominant|bulk",
        ),
    ] = None,
    subspace_k: Annotated[
        str | None, _option("--subspace-k", "Number of those eigenvectors (default 10).", "N")
    ] = None,
    subspace_every: Annotated[
        str | None, _option("--subspace-every", "Updates between two computations of them (default 8).", "N")
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
    flags = dict(locals())
    from fgcli.commands.sinks import make_sinks
    from fgcli.extend.registry import load_registry

    if out is not None and resume is not None:
        raise UsageError("--out and --resume are both given; --resume goes on in its own directory")
    overrides = recipe_overrides(flags)
    registry = load_registry(tuple(plugin or ()))
    sinks = make_sinks(registry, sink or [], sink_option or [])
    make = _prepare(overrides, recipe, out, resume, registry)
    _train(make, sinks, json=json, quiet=quiet)


_PLAIN = (
    "method", "combine", "memory", "dataset", "model", "bias", "optimizer", "device", "precision", "on_nonfinite",
    "subspace",
)  # fmt: skip
_NUMBERS = (
    "k", "tangents", "tangent_chunk", "width", "depth", "epochs", "max_steps", "batch_size", "micro_batch", "lr",
    "seed", "threads", "eval_every", "keep_last", "diagnostics_every", "subspace_k", "subspace_every",
)  # fmt: skip
_OPTIONS = ("option", "dataset_option", "model_option", "optimizer_option")
_LISTS = ("keep_checkpoints", "diagnostics")


def recipe_overrides(flags: Mapping[str, Any]) -> dict[str, object]:
    """What flags of train, by the names of its parameters, say over a recipe. Those that are missing say nothing."""
    from fgcli.recipe import parse_assignments

    overrides: dict[str, object] = {name: flags.get(name) for name in _PLAIN}
    overrides |= {name: _parsed(name, flags.get(name)) for name in _NUMBERS}
    for name in _OPTIONS:
        flag = f"--{name}".replace("_", "-")
        overrides[f"{name}s"] = parse_assignments(flags.get(name) or [], flag)
    for name in _LISTS:
        text = flags.get(name)
        parts = None if text is None else [part.strip() for part in text.split(",") if part.strip()]
        overrides[name] = None if parts is None else [_parsed(name, part) for part in parts]
    return overrides


def _parsed(name: str, text: str | None) -> object:
    """A number, where the text is one; checked like that of a recipe."""
    from fgcli.yaml_reader import scalar

    try:
        value = None if text is None else scalar(text)
        return text if value is None else value
    except ValueError as error:
        raise UsageError(f"--{name} is {error}".replace("_", "-")) from error


def _prepare(
    overrides: dict[str, object], recipe: str | None, out: Path | None, resume: Path | None, registry: "Registry"
) -> "Callable[[Reporter], Training]":
    """What makes the training, once a reporter is there. Most of what is refused is refused here."""
    from fgcli.recipe import read_recipe, resolve
    from fgcli.recipes import find
    from fgcli.runs.run_directory import check_free, check_resumable

    source = None if recipe is None else read_recipe(find(recipe))
    if resume is None:
        # Refused, if at all, before torch is loaded, which takes seconds.
        resolved = resolve(source, overrides, registry)
        if out is not None:
            check_free(out)
        from fgcli.training.start import begin

        return partial(begin, resolved, out, registry)
    check_resumable(resume)
    from fgcli.training import start

    return partial(start.resume, resume, source, overrides, registry)


def _train(make: "Callable[[Reporter], Training]", sinks: "Sinks", *, json: bool, quiet: bool) -> None:
    from fgcli.commands.display import Display, WarningsOnly, show_result
    from fgcli.training.interrupts import Interrupted
    from fgcli.training.sinks import SinkReporter

    result: dict[str, Any] | None = None
    # What a plugin prints goes to standard error where standard output is for JSON alone.
    printed = redirect_stdout(sys.stderr) if json else nullcontext()
    with printed, WarningsOnly() if quiet else Display(to_stderr=json) as display:
        training = make(display)
        training.reporter = reporter = SinkReporter(display, sinks)
        try:
            result = training.run()
        except KeyboardInterrupt as interrupt:
            raise Interrupted(
                f"interrupted at once, after step {training.step}; go on, from the last checkpoint, with: "
                f"{training.run_directory.resume_command}",
                signal.SIGINT,
            ) from interrupt
        finally:
            reporter.finished(result)
    if json:
        print(to_json(result), flush=True)
    elif not quiet and result is not None:
        show_result(result)
