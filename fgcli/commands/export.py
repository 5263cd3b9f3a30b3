"""`fgcli export`: a trained network as a file for other programs. Heavy imports inside the body."""

from pathlib import Path
from typing import Annotated

import typer

from fgcli.commands.flags import PluginFiles, TrainedRun
from fgcli.errors import UsageError, unknown
from fgcli.extend.extras import require
from fgcli.extend.registry import load_registry
from fgcli.report.figure_file import check_new

FORMATS = ("safetensors", "torch-export", "onnx")


def export(
    run: TrainedRun,
    format: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.", metavar="NAME")],
    out: Annotated[Path, typer.Option("--out", help="The file to write.", metavar="FILE")],
    plugin: PluginFiles = None,
) -> None:
    """Write a trained network to a file.

    safetensors: the weights alone, under the model's own names. torch-export and onnx: the network behind its
    preprocessing, for inputs as the data have them and batches of any size. A torch-export file is named
    NAME.pt2; torch.export.load reads it.
    """
    if format not in FORMATS:
        raise unknown("format", format, FORMATS, where="--format")
    if format == "onnx":
        require("onnx", "onnx", "onnxscript", what="--format onnx")
    if format == "torch-export" and out.suffix != ".pt2":
        raise UsageError(f"--out is {out}; for torch-export its name must end in .pt2, which torch.export.load reads")
    check_new(out)
    from fgcli.training.exporting import write
    from fgcli.training.loading import open_trained

    trained = open_trained(run, load_registry(tuple(plugin or ())))
    write(trained, format, out)
    print(f"{trained.recipe.model} after step {trained.step} written to {out}")
    print(f"inputs {trained.model.preprocessing.extra_repr()}{', not in the file' * (format == 'safetensors')}")
