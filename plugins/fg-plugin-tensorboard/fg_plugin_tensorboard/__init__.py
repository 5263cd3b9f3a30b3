"""fg-plugin-tensorboard: the metric sink tensorboard. Imports no torch, as fg loads this module for every command."""

from pydantic import Field

from fgcli import Entry, Options, hookimpl

FG_CONTRACT = 2


class TensorBoardOptions(Options):
    """Options of tensorboard."""

    log_dir: str | None = Field(
        default=None, description="Folder that gets a folder for each run; default: tensorboard/ in the run directory."
    )


@hookimpl
def fg_metric_sinks() -> list[Entry]:
    return [
        Entry(
            "tensorboard",
            "fg_plugin_tensorboard.sink:TensorBoard",
            "Losses and accuracies for TensorBoard, as event files.",
            TensorBoardOptions,
        )
    ]
