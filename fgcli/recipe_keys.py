"""The keys of a recipe: what a file may say, and by that the flags of `fgcli train`. Imports no torch.

Some options stand at the top for convenience: `k`, `tangents`, `combine`, `tangent_chunk`, `memory` and FEEDBACK of the
method, `width`, `depth`, `bias` and `lora` of the model. Each is None where that has no such option.
"""

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, field_validator, model_validator

from fgcli.extend.entry import Rank
from fgcli.extend.options import Options
from fgcli.runs.diagnostics import DiagnosticKey

Count = Annotated[int, Field(ge=1, lt=2**63)]
# The largest servers have 768; some thousands more, and the thread library ends the process without a word.
Threads = Annotated[int, Field(ge=1, le=1024)]
OwnOptions = dict[str, Any]
Section = Literal["method", "dataset", "model", "loss", "optimizer", "lr_schedule"]


Panel = Literal["Method", "Feedback", "Data and model", "Optimisation", "Device", "Output", "Diagnostics"]
"""A group of flags in the help of `fgcli train`."""


def _key(panel: Panel, default: Any, description: str, **bounds: Any) -> Any:
    """A key of a recipe, and by that a flag of `fgcli train`, shown in a panel of its help."""
    return Field(default=default, description=description, json_schema_extra={"panel": panel}, **bounds)


class Recipe(Options):
    """A run, resolved: every option has its value. Equal recipes are the same run.

    A field here is all that a key needs: recipes, `fgcli train`, its help and docs/recipes.md have it from this class.
    """

    method: str = _key("Method", "wt", "Guess method or estimator.")
    options: OwnOptions = _key("Method", {}, "The method's other options.")
    k: Count | Rank | None = _key(
        "Method", None, "Dimension of the guess space, or `rank`; for methods that have such a space."
    )
    tangents: Count | None = _key("Method", None, "Directions in one step, for every guess method.")
    combine: Literal["mean", "orthogonal", "sitewise", "projection"] | None = _key(
        "Method", None, "How the tangents make one estimate."
    )
    tangent_chunk: Count | None = _key(
        "Method", None, "Tangents carried at a time, for less memory; by default all of them."
    )
    memory: Literal["auto", "store", "replay"] | None = _key(
        "Method",
        None,
        "auto: at most backpropagation's; replay: at most inference's, for more time; store: all that each layer saw.",
    )
    output_gradient: Literal["guess", "exact"] | None = _key(
        "Feedback", None, "At the last layers: guessed, or exact, which is local; with feedback `exact`."
    )
    feedback: str | None = _key(
        "Feedback",
        None,
        "Rule that predicts each layer's gradient from the output's: direct, local, none, or another that "
        "is registered (docs/feedback.md).",
    )
    feedback_learning: Literal["tangents", "bootstrap", "fixed", "none"] | None = _key(
        "Feedback", None, "What the rule's matrices learn from; `fixed`: they are random; `none`: they are 0."
    )
    feedback_rate: float | None = _key(
        "Feedback", None, "Rate that the learning of the matrices falls to from 1.", gt=0, le=1
    )
    feedback_every: Count | None = _key(
        "Feedback", None, "Steps between two passes with tangents, after the first 24 steps."
    )
    feedback_layers: Count | None = _key(
        "Feedback", None, "Of local: layers by whose own weights a prediction is pulled back; by default 1."
    )
    correction: float | None = _key(
        "Feedback",
        None,
        "Share of the guess's own estimate of what feedback misses: 1 is unbiased, 0 makes no guess.",
        ge=0,
        le=1,
    )
    dataset: str = _key("Data and model", "mnist1d", "Dataset, or the path of your own: FILE.npz, .csv, FOLDER.")
    dataset_options: OwnOptions = _key("Data and model", {}, "The dataset's options.")
    model: str = _key("Data and model", "mlp", "Model; one of your own as `package.module:factory`.")
    model_options: OwnOptions = _key("Data and model", {}, "The model's other options.")
    width: Count | None = _key("Data and model", None, "Units of every hidden layer.")
    depth: Count | None = _key("Data and model", None, "Number of hidden layers.")
    bias: bool | None = _key("Data and model", None, "Give every layer a bias.")
    local_losses: Count | str | None = _key(
        "Data and model",
        None,
        "Train blocks of the model by losses of their own: a head at every N-th layer, or at the modules of these "
        "names (NAME,NAME), and no derivative from one block to the next.",
    )
    local_head: Literal["projection", "group"] = _key(
        "Data and model",
        "projection",
        "Heads of local losses: `projection` of a layer's flattened output, or `group`: its mean over positions, with "
        "a directional derivative for each position and group of channels.",
    )
    local_groups: Count = _key("Data and model", 1, "Groups of channels of a `group` head.")
    lora: str | None = _key(
        "Data and model", None, "Train low-rank updates alone, of a plugin's model: `r=8,targets=query,value`."
    )
    init_from: str | None = _key(
        "Data and model", None, "Begin with the weights of this run, or of this safetensors file."
    )
    loss: str = _key(
        "Optimisation",
        "cross-entropy",
        "Loss: `cross-entropy`, `mse`, `bce`, `error-rate`, or your own as `package.module:function`.",
    )
    loss_options: OwnOptions = _key("Optimisation", {}, "The loss's options.")
    epochs: Count = _key("Optimisation", 300, "Passes over the training set.")
    max_steps: Count | None = _key("Optimisation", None, "Stop after this many updates, also inside an epoch.")
    batch_size: Count = _key("Optimisation", 512, "Samples per update.")
    micro_batch: Count | None = _key(
        "Device", None, "Samples estimated at a time, for less memory; by default the whole batch."
    )
    optimizer: str = _key("Optimisation", "adamw", "Optimiser.")
    optimizer_options: OwnOptions = _key("Optimisation", {}, "The optimiser's options.")
    lr: float = _key("Optimisation", 1e-4, "Learning rate.", gt=0)
    lr_schedule: str = _key(
        "Optimisation",
        "constant",
        "Learning rate over the run: `constant`, `cosine`, `step`, `linear-warmup`, or your own as "
        "`package.module:factory`.",
    )
    lr_schedule_options: OwnOptions = _key("Optimisation", {}, "The schedule's options.")
    clip_norm: float | None = _key(
        "Optimisation", None, "Scale the gradient of all parameters down to this norm where its norm is larger.", gt=0
    )
    seed: int = _key("Optimisation", 0, "Names the run: data order, initialisation, guesses.", ge=0, lt=2**63)
    device: str = _key("Device", "auto", "Where to compute: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.")
    precision: Literal["float32", "bfloat16", "float16"] = _key(
        "Device", "float32", "In which the network is computed; all else is float32."
    )
    threads: Threads | None = _key("Device", None, "CPU threads of torch; by default torch's choice.")
    eval_every: Count = _key("Output", 10, "Epochs between two evaluations, each with a checkpoint.")
    keep_checkpoints: list[Count] = _key("Output", [], "Epochs after which a checkpoint is written that is kept.")
    keep_last: Count = _key("Output", 2, "How many of the newest checkpoints are kept, beside the best.")
    on_nonfinite: Literal["stop", "skip"] = _key(
        "Optimisation", "stop", "When a loss, guess or gradient is not finite: stop, or leave that update out."
    )
    diagnostics: list[DiagnosticKey] = _key(
        "Diagnostics", [], "What to record of the guesses during the run, without changing it."
    )
    diagnostics_every: Count = _key("Diagnostics", 10, "Epochs between two records of the diagnostics.")
    subspace: Literal["dominant", "bulk"] | None = _key(
        "Diagnostics", None, "Project each update onto the loss's top Hessian eigenvectors, or off them: a control."
    )
    subspace_k: Count = _key("Diagnostics", 10, "Number of Hessian eigenvectors that span the subspace.")
    subspace_every: Count = _key("Diagnostics", 8, "Updates between two computations of the subspace.")

    @field_validator("local_losses", mode="before")
    @classmethod
    def _heads_are_somewhere(cls, value: object) -> object:
        if isinstance(value, int) and value < 1:
            raise ValueError(
                "it must be N from 1 on, for a head at every N-th layer, or names of modules (NAME,NAME); leave it out "
                "to train by one loss"
            )
        return value

    @model_validator(mode="after")
    def _heads_suit(self) -> Self:
        given = {"local_head": self.local_head, "local_groups": self.local_groups}
        for name, value in given.items():
            if self.local_losses is None and value != Recipe.model_fields[name].default:
                raise ValueError(f"{name} is {value}; it is of local losses: set local_losses, or leave it out")
        if self.local_head == "projection" and self.local_groups > 1:
            raise ValueError(f"local_groups is {self.local_groups}; groups are of local_head group: set it too")
        return self


FEEDBACK = (
    "output_gradient", "feedback", "feedback_learning", "feedback_rate", "feedback_every", "feedback_layers",
    "correction",
)  # fmt: skip
LENGTH = ("epochs", "max_steps")
"""Keys that say how long a run is: a finished one may be extended by them."""


class Part(NamedTuple):
    """Where a section's options stand in a recipe."""

    options: str
    shortcuts: tuple[str, ...] = ()


PARTS: dict[Section, Part] = {
    "method": Part("options", ("k", "tangents", "combine", "tangent_chunk", "memory", *FEEDBACK)),
    "dataset": Part("dataset_options"),
    "model": Part("model_options", ("width", "depth", "bias", "lora")),
    "loss": Part("loss_options"),
    "optimizer": Part("optimizer_options"),
    "lr_schedule": Part("lr_schedule_options"),
}


def section_keys(section: Section) -> tuple[str, ...]:
    """The keys of a recipe that belong to the section: its name, its options and their shortcuts."""
    return (section, PARTS[section].options, *PARTS[section].shortcuts)
