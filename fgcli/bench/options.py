"""Options of the built-in executor. Imports no torch."""

from typing import Annotated

from pydantic import Field

from fgcli.extend.options import Options


class LocalOptions(Options):
    """Options of `local`."""

    jobs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Trials at once; by default as many as the cores have room for."
    )
    patience: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="Minutes without a written byte after which a trial is killed; by default never."
    )
