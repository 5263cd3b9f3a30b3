"""fg-plugin-wandb: the metric sink wandb. Imports neither torch nor wandb: fg loads it for every command."""

from typing import Literal

from pydantic import Field

from fgcli import Entry, Options, hookimpl

FG_CONTRACT = 2


class WandbOptions(Options):
    """Options of wandb."""

    project: str = Field(default="fg", description="Project of the run.")
    group: str | None = Field(
        default=None, description="Group of the run, W&B's word for an experiment; default: the name of the sweep."
    )
    mode: Literal["online", "offline"] | None = Field(
        default=None, description="Default: WANDB_MODE, else online where there is a login, and offline elsewhere."
    )


@hookimpl
def fg_metric_sinks() -> list[Entry]:
    return [
        Entry(
            "wandb",
            "fg_plugin_wandb.sink:Wandb",
            "Recipe, metrics, result and report for Weights & Biases; offline without a login.",
            WandbOptions,
        )
    ]
