"""The arguments of commands that use a trained run, and files that they may write. Imports nothing heavy."""

from pathlib import Path
from typing import Annotated

import typer

from fgcli.errors import UsageError

TrainedRun = Annotated[Path, typer.Argument(help="The directory of a run.", metavar="RUN")]
Device = Annotated[
    str, typer.Option("--device", help="Where to compute: auto, cpu, cuda, cuda:N or mps.", metavar="NAME")
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin", help="Also use the plugin in this Python file, which is executed; repeatable.", metavar="FILE"
    ),
]


def check_new(path: Path) -> None:
    """UsageError unless --out can be written, and is no file yet."""
    from fgcli.report.figure_file import check_file

    check_file(path, "--out")
    if path.exists():
        raise UsageError(f"--out {path} exists; give another name, or remove that file")
