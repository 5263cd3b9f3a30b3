"""`fgcli predict`: outputs of a trained run for inputs in a file. Heavy imports inside the body."""

from pathlib import Path
from typing import Annotated

import typer

from fgcli.commands.flags import Device, PluginFiles, TrainedRun
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.report.figure_file import check_new


def predict(
    run: TrainedRun,
    inputs: Annotated[
        Path,
        typer.Argument(
            help="A .npz file with the array `inputs`, a .npy file, or a .csv or .parquet table with the columns that "
            "the run was trained on: not standardised.",
            metavar="INPUTS",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="The .npz file to write.", metavar="FILE")] = Path(
        "predictions.npz"
    ),
    device: Device = "auto",
    plugin: PluginFiles = None,
) -> None:
    """Write what a trained run gives for inputs: `outputs`, and for classes their numbers and names.

    Inputs are [n, ...] as the run's data have them; they are standardised here as those were.
    """
    import io

    import numpy

    from fgcli.devices import resolve_device
    from fgcli.files import write_atomically
    from fgcli.training.loading import open_trained

    where = resolve_device(device)
    if out.suffix != ".npz":
        raise UsageError(f"--out is {out}; its name must end in .npz")
    trained = open_trained(run, load_registry(tuple(plugin or ())))
    given = trained.read_inputs(inputs)
    check_new(out)
    outputs = trained.predict(given, where)
    found = {"outputs": outputs.numpy()}
    if (classes := trained.classes_of(outputs)) is not None:
        found["classes"] = classes.numpy()
        if names := trained.record.class_names:
            found["names"] = numpy.array(names)[found["classes"]]
    content = io.BytesIO()
    numpy.savez(content, **found)  # pyright: ignore[reportArgumentType]
    write_atomically(out, content.getvalue())
    shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in found.items())
    print(f"{len(given)} predictions written to {out}: {shapes}")
