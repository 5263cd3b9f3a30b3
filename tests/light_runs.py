"""What needs no import of torch to look at runs."""

from typing import Any

from typer.testing import CliRunner

from fgcli.app import app
from fgcli.runs.results import Result


def untimed(value: Any) -> Any:
    """A result or metrics rows without what no two runs share: times, memory, place."""
    if isinstance(value, list):
        return [untimed(item) for item in value]
    if isinstance(value, Result):
        value = value.as_json()
    varying = {"wall_s", "step_ms_median", "step_ms_quartiles", "step_ms_mean", "peak_memory_bytes", "run_dir"}
    return {key: item for key, item in value.items() if key not in varying}


def fg(*arguments: str) -> Any:
    """Run `fg` in this process: exit_code, stdout, stderr."""
    return CliRunner().invoke(app, list(arguments), prog_name="fg")
