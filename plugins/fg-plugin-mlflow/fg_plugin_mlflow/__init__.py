"""fg-plugin-mlflow: the metric sink mlflow. Imports neither torch nor MLflow: fg loads it for every command."""

from pydantic import Field

from fgcli import Entry, Options, hookimpl

FG_CONTRACT = 2


class MLflowOptions(Options):
    """Options of mlflow."""

    tracking_uri: str | None = Field(
        default=None,
        description="Server or database; default: MLFLOW_TRACKING_URI, else mlflow.db in the working directory.",
    )
    experiment: str | None = Field(
        default=None, description="Experiment of the run; default: the name of the sweep's folder, `fg` without one."
    )


@hookimpl
def fg_metric_sinks() -> list[Entry]:
    return [
        Entry(
            "mlflow",
            "fg_plugin_mlflow.sink:MLflow",
            "Recipe, metrics, result and report for MLflow.",
            MLflowOptions,
        )
    ]
