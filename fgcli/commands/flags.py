"""Arguments and flags that several commands have, beside those of run_flags.py. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated

import typer

PluginFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="Also use the plugin in this Python file, which is executed; repeatable.", metavar="FILE"
    ),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", help="Trials at once (default as many as there are cores).", metavar="N", min=1)
]
TrainedRun = Annotated[Path, typer.Argument(help="The directory of a run.", metavar="RUN")]
Device = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:N or mps.", metavar="NAME")
]
Runs = Annotated[
    list[Path] | None,
    typer.Argument(help="Runs to look at; without one, the flags of train say what to train.", metavar="[RUN]..."),
]
Epochs = Annotated[
    str | None,
    typer.Option(
        "--epochs",
        help="Epochs whose checkpoints are looked at (default: the last); with the flags of train it trains to the "
        "last of them.",
        metavar="N,N,…",
    ),
]
Batches = Annotated[int, typer.Option("--batches", help="Training batches to average over.", metavar="N")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the numbers as JSON, and nothing else, to standard output.")
]
