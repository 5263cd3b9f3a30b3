"""Options of the built-in executors. Imports no torch."""

import re
from typing import Annotated

from pydantic import Field, field_validator

from fgcli.bench.slurm_commands import seconds
from fgcli.extend.options import Options

LONGEST_S = 60 * (2**32 - 3)
"""SLURM counts minutes in 32 bits, and takes a longer limit for another, short one."""
LEAST = 0.0001
"""Of a CPU or GPU: Ray refuses a smaller share of one."""


class LocalOptions(Options):
    """Options of `local`."""

    jobs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Trials at once; by default as many as the cores have room for."
    )
    patience: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Minutes without a written byte after which a trial is killed; by default never."
    )


class SlurmOptions(Options):
    """Options of `slurm`."""

    partition: str | None = Field(default=None, description="The partition; by default the cluster's own default.")
    time: Annotated[int, Field(ge=1)] | str | None = Field(
        default=None,
        description="Time limit of a trial, in minutes or as sbatch has it, `2:00:00`: a trial that reaches it is "
        "queued again and goes on.",
    )
    memory: Annotated[int, Field(ge=1)] | str | None = Field(
        default=None, description="Memory of a trial, in MiB or as sbatch has it, `4G`."
    )
    gres: str | None = Field(default=None, description="Further resources of a trial: `gpu:1`.")
    lines: list[str] = Field(
        default=[], description="Further lines of the batch script, before the program; `#SBATCH` ones, too."
    )
    jobs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Trials at once; by default as many as SLURM starts."
    )
    lead: Annotated[int, Field(ge=1)] = Field(
        default=120,
        description="Seconds before the time limit at which a trial writes a checkpoint, to be queued again.",
    )
    poll: Annotated[float, Field(gt=0)] = Field(default=15, description="Seconds between two questions to squeue.")
    detach: bool = Field(default=False, description="Submit and do not wait; the same as `--detach`.")

    @field_validator("time")
    @classmethod
    def _check_time(cls, time: int | str | None) -> int | str | None:
        if time is not None and not 0 < (seconds(str(time)) or 0) <= LONGEST_S:
            raise ValueError(
                f"it must be minutes, HH:MM:SS or D-HH:MM:SS, above 0 and at most {LONGEST_S // 60} minutes"
            )
        return time

    @field_validator("lines")
    @classmethod
    def _check_lines(cls, lines: list[str]) -> list[str]:
        if any("\n" in line for line in lines):
            raise ValueError("there is a line break within a line; give a list of lines")
        for line in lines:
            for name in ("time", "partition"):  # what is not known here could not be checked before
                if re.match(rf"#SBATCH\s(.*\s)?(-{name[0]}|--{name}\b(?!-))", line):
                    raise ValueError(f"{line!r} sets the {name}; give option {name} instead")
        return lines


class RayOptions(Options):
    """Options of `ray`."""

    address: str = Field(default="auto", description="The cluster, HOST:PORT; `auto`: that of this machine.")
    cpus: Annotated[float, Field(ge=LEAST)] | None = Field(
        default=None, description="CPUs that a trial takes; by default its threads."
    )
    gpus: Annotated[float, Field(ge=0)] = Field(default=0, description="GPUs that a trial takes, 0.5 for two on one.")
    jobs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Trials at once; by default as many as the cluster has room for."
    )
    retries: Annotated[int, Field(ge=0, lt=2**31)] = Field(
        default=3, description="How often a trial is started again when its worker or node is lost."
    )

    @field_validator("gpus")
    @classmethod
    def _check_gpus(cls, gpus: float) -> float:
        if 0 < gpus < LEAST or (gpus > 1 and gpus % 1):
            raise ValueError(f"it must be 0, from {LEAST} to 1, or a whole number")
        return gpus
