"""`fg check-model`: which methods train a model, and what a step of each takes. Heavy imports inside the bodies."""

import inspect
import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fgcli.commands.flags import PluginFiles
from fgcli.errors import UsageError, exception_text

if TYPE_CHECKING:
    from fgcli.bench.check_model import CheckedMethod, CheckedModel
    from fgcli.extend.registry import Registry

MIB = 2**20


def check_model(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A model as --model of train names it; or package.module:factory, a function without required "
            "parameters that gives (model, inputs), (model, inputs, targets, loss_fn). It may take batch_size.",
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Whose first batch the model is given.", metavar="NAME")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Samples that are measured.", metavar="N", min=1)
    ] = None,
    model_option: Annotated[
        list[str] | None,
        typer.Option("--model-option", help="Option of a model of train; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", help="Only this one, as NAME or NAME:OPTION=VALUE; repeatable.", metavar="NAME"),
    ] = None,
    plugin: PluginFiles = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")] = False,
) -> None:
    """Say which methods train a model, what they train, and what time and memory a step of each takes."""
    # Before torch is imported, whose profiler writes to the terminal when it measures memory.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")
    from fgcli.bench.check_model import check_model as check
    from fgcli.extend.registry import load_registry

    registry = load_registry(tuple(plugin or ()))
    subject = _subject(model, dataset, batch_size, model_option or [], registry)
    found = check(*subject, methods=method or None)
    if json:
        from dataclasses import asdict

        from fgcli.files import to_json

        print(to_json({"schema": 1, **asdict(found)}))
    else:
        _show(found)


def _subject(
    name: str, dataset: str | None, batch_size: int | None, options: list[str], registry: "Registry"
) -> tuple[Any, ...]:
    """Model, inputs, targets and loss."""
    from fgcli.extend.factory import find_maker, is_reference
    from fgcli.recipe import parse_assignments, resolve

    own = is_reference(name) and not registry.has_prefix(name)
    if own and (maker := find_maker(name, where="MODEL")) is not None:
        for flag, value in (("--dataset", dataset), ("--model-option", options)):
            if value:
                raise UsageError(f"{flag} is given, but {name} makes its own inputs; leave it out")
        return _made(name, maker, batch_size)
    from fgcli.training.assembly import assemble, settle

    given = {"dataset": dataset, "batch_size": batch_size, "model_options": parse_assignments(options) or None}
    overrides = {key: value for key, value in given.items() if value is not None}
    recipe = resolve(None, {**overrides, "model": name, "method": "backprop"}, registry)
    assembly = assemble(settle(recipe, registry), registry)
    size = recipe.batch_size
    data = assembly.dataset
    return assembly.model, data.train_inputs[:size], data.train_targets[:size], assembly.objective.loss


def _made(name: str, maker: Any, batch_size: int | None) -> tuple[Any, ...]:
    from torch import nn

    wanted = "it must give (model, inputs) or (model, inputs, targets, loss_fn)"
    if batch_size is not None and "batch_size" not in inspect.signature(maker).parameters:
        raise UsageError(f"--batch-size is {batch_size}, but {name} takes no batch_size; give it that parameter")
    try:
        made = maker(**({"batch_size": batch_size} if batch_size is not None else {}))
    except Exception as cause:
        raise UsageError(f"MODEL: {name} failed: {exception_text(cause)} (`fgcli --debug ...` shows where)") from cause
    if not isinstance(made, tuple) or len(made) not in (2, 4) or not isinstance(made[0], nn.Module):
        shown = [type(one).__name__ for one in made] if isinstance(made, tuple) else type(made).__name__
        raise UsageError(f"MODEL: {name} gave {shown}; {wanted}")
    return made


def _show(found: "CheckedModel") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    base = next((one for one in found.methods if one.method == "backprop" and not one.refusal), None)
    table = Table("method", "trains", *("first step", "step", "to backprop", "peak", "to backprop"))
    for one in found.methods:
        table.add_row(one.method, "no" if one.refusal else "yes", *_cells(one, base))
    console.print(table)
    console.print(f"{found.parameters:,} numbers are trained, {found.frozen:,} require no gradient", soft_wrap=True)
    if found.coverage is not None:
        for line in found.coverage.lines():
            console.print(line, soft_wrap=True, markup=False)
    for one in found.methods:
        if one.refusal:
            console.print(f"{one.method}: {one.refusal}", soft_wrap=True, markup=False)


def _cells(one: "CheckedMethod", base: "CheckedMethod | None") -> list[str]:
    if one.refusal or one.first_s is None or one.step_s is None or one.peak_bytes is None:
        return [""] * 5
    time = memory = ""
    if base is not None and base.step_s and base.peak_bytes:
        time, memory = f"{one.step_s / base.step_s:.1f}", f"{one.peak_bytes / base.peak_bytes:.2f}"
    return [f"{one.first_s:.2f} s", f"{1e3 * one.step_s:.1f} ms", time, f"{one.peak_bytes / MIB:.1f} MiB", memory]
