"""The flags that analyses share, beside those of run_flags.py, as they may train first. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated

import typer

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
