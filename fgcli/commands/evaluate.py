"""`fgcli evaluate`: a trained run's loss and accuracy, on its own data or on others. Heavy imports inside the body."""

from typing import Annotated

import typer

from fgcli.commands.flags import Device, PluginFiles, TrainedRun
from fgcli.extend.registry import load_registry


def evaluate(
    run: TrainedRun,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", help="Other data, as --dataset of train takes them; by default the run's own."),
    ] = None,
    dataset_option: Annotated[
        list[str] | None,
        typer.Option("--dataset-option", help="Option of the dataset; repeatable.", metavar="KEY=VALUE"),
    ] = None,
    device: Device = "auto",
    plugin: PluginFiles = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")] = False,
) -> None:
    """Measure a trained run: loss and accuracy on both splits of its dataset, or of another.

    Other data are standardised as the run's own were, and their classes matched by name where they have names.
    """
    from rich.console import Console
    from rich.text import Text

    from fgcli.commands.display import metrics_table
    from fgcli.devices import resolve_device
    from fgcli.files import to_json
    from fgcli.recipe import parse_assignments
    from fgcli.runs.record import as_json
    from fgcli.training.loading import open_trained

    where = resolve_device(device)
    options = parse_assignments(dataset_option or [], "--dataset-option")
    trained = open_trained(run, load_registry(tuple(plugin or ())))
    name, metrics = trained.evaluate({"dataset": dataset, "dataset_options": options}, where)
    if json:
        print(to_json({"run": str(run), "step": trained.step, "dataset": name, **as_json(metrics)}))
        return
    console = Console(highlight=False)
    console.print(Text(f"{run} after step {trained.step}, on {name}"), soft_wrap=True)
    console.print(metrics_table(metrics))
