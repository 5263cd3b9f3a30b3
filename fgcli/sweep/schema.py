"""A sweep: many runs of one base, over a grid, and what a report shows of them. Imports no torch."""

from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field

from fgcli.extend.options import Options
from fgcli.recipe import dump_plain
from fgcli.runs.quantities import MetricKey
from fgcli.runs.record import name_of
from fgcli.runs.results import Metrics
from fgcli.sweep.views import AnyView, Scalar

METHODS, SEED = "methods", "seed"

Seed = Annotated[int, Field(ge=0, lt=2**63)]


def _labelled(value: object) -> object:
    if isinstance(value, str):
        return {"label": value, "method": value}
    return {"label": value["method"], **value} if isinstance(value, dict) and "method" in value else value


class Method(Options):
    """One of the compared methods: a name, or a label and what its runs have beside the base."""

    model_config = ConfigDict(extra="allow")
    label: str = Field(description="What tables and figures call it; by default the method's name.", min_length=1)

    @property
    def overrides(self) -> dict[str, Any]:
        """Keys of a run's recipe."""
        return dict(self.model_extra or {})


class Grid(Options):
    """The axes. Every other key of a run's recipe is one: a list of values."""

    model_config = ConfigDict(extra="allow")
    methods: list[Annotated[Method, BeforeValidator(_labelled)]] = Field(
        description="The compared methods.", min_length=1
    )
    seed: list[Seed] = Field(default=[0], description="Seeds: the repetitions.", min_length=1)

    @property
    def axes(self) -> dict[str, list[Scalar]]:
        """The values of each axis but method and seed, in the order of the file."""
        return dict(self.model_extra or {})


class Tune(Options):
    """A search of the learning rate before the grid: the same one for each method and value of each other axis."""

    lr: list[Annotated[float, Field(gt=0)]] = Field(description="The candidates.", min_length=1)
    seed: list[Seed] = Field(default=[100], description="Seeds of the search; the grid's own are better left out.")
    by: MetricKey = Field(default=name_of(Metrics.train_loss), description="The best mean over the seeds of this wins.")
    epochs: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Epochs of a trial of the search.")


class Sweep(Options):
    """Many runs of one base, and what a report shows of them. Made by `fgcli.sweep.read`, which checks it whole."""

    title: str = Field(default="", description="What the report is called.")
    description: str = Field(default="", description="Stands under the title.")
    base: dict[str, Any] = Field(default={}, description="What all runs share: keys of a run's recipe.")
    grid: Grid = Field(description="The axes whose product is run.")
    tune: Tune | None = Field(default=None, description="A search of the learning rate before that.")
    processes: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=1, description="Processes that train each run together, as `fgcli train --processes` has it."
    )
    executor: str = Field(default="local", description="Who runs the trials; results are the same with any.")
    executor_options: dict[str, Any] = Field(default={}, description="The executor's options.")
    views: list[Annotated[AnyView, Field(discriminator="kind")]] = Field(
        default=[], description="What the report shows."
    )
    plugin_methods: bool = Field(
        default=False, description="Methods of --plugin files are compared too, each under its name."
    )

    def labels(self) -> list[str]:
        return [method.label for method in self.grid.methods]

    def with_methods(self, names: list[str]) -> "Sweep":
        """The same with methods under their own names, where the sweep takes them and has none of that label."""
        if not self.plugin_methods:
            return self
        more = [Method(label=name, method=name) for name in names if name not in self.labels()]  # pyright: ignore
        return self.model_copy(update={"grid": self.grid.model_copy(update={METHODS: [*self.grid.methods, *more]})})

    def with_seeds(self, seeds: list[int]) -> "Sweep":
        """The same over other seeds."""
        return self.model_copy(update={"grid": self.grid.model_copy(update={SEED: seeds})})

    def with_threads(self, threads: int | None) -> "Sweep":
        """The same with that many threads a trial; where None, as many as it says, or 1: sums on several threads
        differ in the last bits, so that results must not hang on how many trials run at once."""
        givers = (self.base, self.grid.axes, *(method.overrides for method in self.grid.methods))
        if threads is None and any("threads" in given for given in givers):
            return self
        return self.model_copy(update={"base": {**self.base, "threads": threads or 1}})

    @property
    def first_lr(self) -> dict[str, object]:
        """The first candidate, by its key, where the learning rate is still to be searched for; else empty."""
        return {} if self.tune is None else {"lr": self.tune.lr[0]}


def dump_sweep(sweep: Sweep) -> str:
    """YAML that reads back to an equal sweep, with every default filled in."""
    return dump_plain(sweep.model_dump(mode="json", exclude_none=True))
