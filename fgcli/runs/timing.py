"""What `fgcli bench --timing` measures: timing.json. Imports no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fgcli.errors import RunError
from fgcli.files import read_json, to_json, write_atomically
from fgcli.runs.environment import machine_text
from fgcli.runs.quantity import MIB, Quantity
from fgcli.runs.record import as_json, quantities, read_record

TIMING_FILE = "timing.json"
SCHEMA = 1
ENOUGH = 20
"""Steps from which on the quartiles of their times say something."""


@dataclass(frozen=True, slots=True)
class StepTiming:
    """Steps of several methods, timed in turn on one machine."""

    timed_step_ms: Annotated[
        float | None, Quantity("time per step, timed in turn", "lower", "digits", "ms", of_machine=True)
    ] = None
    timed_step_ms_quartiles: tuple[float, ...] = ()
    """The lower and the upper one."""
    timed_samples: int | None = None
    step_flops: Annotated[float | None, Quantity("floating-point operations per step", "lower", "powers")] = None
    device: str | None = None
    device_name: str | None = None
    threads: int | None = None
    torch: str | None = None
    timed_step_ms_mean: Annotated[
        float | None, Quantity("mean time per step, timed in turn", "lower", "digits", "ms", of_machine=True)
    ] = None
    """What a run pays, where some steps do more than others: it is what times over a run are made of."""


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What one step holds beyond what it found, and all of its process."""

    step_peak_bytes: Annotated[
        int | None, Quantity("peak memory of a step", "lower", "digits", "MiB", MIB, of_machine=True)
    ] = None
    process_peak_bytes: Annotated[
        int | None, Quantity("peak memory of the process", "lower", "digits", "MiB", MIB, of_machine=True)
    ] = None


@dataclass(frozen=True, slots=True)
class Timing:
    """One method at one point of the grid."""

    label: str
    axes: Mapping[str, Any]
    steps: StepTiming
    memory: StepMemory

    @property
    def machine(self) -> str:
        return machine_text(self.steps.device_name, self.steps.threads)


def write_timing(file: Path, rows: Sequence[Timing]) -> None:
    """Replace the file."""
    write_atomically(file, to_json({"schema": SCHEMA, _ROWS: [as_json(row) for row in rows]}) + "\n")


def read_timing(file: Path) -> list[Timing]:
    """The rows of the file; none where there is no file. An older one has the machine beside the rows.

    RunError for a file that cannot be read.
    """
    if not file.exists():
        return []
    try:
        content = read_json(file)
        if content["schema"] != SCHEMA:
            raise ValueError(f"it has schema {content['schema']}, and not {SCHEMA}")
        return [read_record(Timing, {**content, **row}, file) for row in content[_ROWS]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"cannot read {file}: {error}") from error


_ROWS = "rows"
TIMING = quantities(Timing)
