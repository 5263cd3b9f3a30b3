"""The metric sink mlflow."""

import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from fg_plugin_mlflow import MLflowOptions
from fgcli import Plan, read_report

RUN = "fg.run"
"""Tag by which a run that goes on finds what was begun for it."""
PARAMETERS = 100
"""That MLflow takes at a time."""


class MLflow:
    """A run of MLflow: the recipe as parameters, every number of a row as a metric, result and report as artefacts."""

    def __init__(self, options: MLflowOptions) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
            from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            mend = "pip install 'fg-plugin-mlflow[mlflow]'"
            raise RuntimeError(f"MLflow is not installed ({error}): {mend}") from error
        for name in ("mlflow", "alembic"):  # which tell each table that they make
            logging.getLogger(name).setLevel(logging.WARNING)
        self.options, self._metric, self._param = options, Metric, Param
        with _alone():  # the first one makes the database, which two at once would spoil
            self._client: Any = MlflowClient(options.tracking_uri)
            self._client.get_experiment_by_name("fg")
        self._run = ""

    def started(self, plan: Plan) -> None:
        self._plan = plan
        run_dir = plan.run_dir.resolve()
        experiment = self._experiment(self.options.experiment or (plan.sweep.name if plan.sweep else "fg"))
        key = blake2b(os.fsencode(run_dir), digest_size=8).hexdigest()
        begun = []
        if plan.first_step:
            begun = self._client.search_runs([experiment], f"tags.`{RUN}` = '{key}'", max_results=1)
        if begun:
            self._run = begun[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        tags = {RUN: key, "fg.run_dir": str(run_dir)}
        self._run = self._client.create_run(experiment, run_name=run_dir.name, tags=tags).info.run_id
        parameters = [self._param(key, str(value)) for key, value in _flat(plan.recipe) if value is not None]
        for start in range(0, len(parameters), PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + PARAMETERS])

    def _experiment(self, name: str) -> str:
        """The id of the experiment, which another run of the sweep may make at the same moment."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name)
            except Exception:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return found.experiment_id

    def row(self, row: dict[str, Any]) -> None:
        self._log(row, row["step"])

    def _log(self, numbers: Mapping[str, Any], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._metric(name, float(value), now, step)
            for name, value in numbers.items()
            if name != "step" and isinstance(value, int | float)
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def finished(self, result: dict[str, Any] | None) -> None:
        if result is None:
            self._client.set_terminated(self._run, "KILLED")
            return
        self._log({name: one for name, one in result.items() if name not in self._plan.recipe}, result["steps"])
        self._client.log_dict(self._run, result, "result.json")
        self._client.log_text(self._run, read_report(self._plan.run_dir).as_html(), "report.html")
        self._client.set_terminated(self._run, "FINISHED")


@contextmanager
def _alone() -> Iterator[None]:
    """Within it no other run of this user is here."""
    try:
        from fcntl import LOCK_EX, flock
    except ImportError:  # Windows
        yield
        return
    with open(Path(gettempdir()) / f"fg-plugin-mlflow-{os.getuid()}.lock", "w") as file:
        flock(file, LOCK_EX)
        yield


def _flat(recipe: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`options.k` for an option: MLflow has no mappings."""
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
