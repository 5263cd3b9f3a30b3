"""Options of the guess methods. Imports no torch: recipes and listings read them from here."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fgcli.extend.entry import Rank
from fgcli.extend.options import GuessOptions, MemoryOptions, Options

Count = Annotated[int, Field(ge=1)]


class TransposeOptions(GuessOptions):
    """Options of W̃ᵀ."""

    embeddings: Literal["guess", "isotropic", "freeze"] = Field(
        default="isotropic",
        description="Tables whose rows are looked up: `isotropic` noise at the rows, the method's own `guess` there, "
        "which a LayerNorm behind a table of small numbers makes so large that it drowns all others, or frozen, where "
        "no other layer uses them.",
    )


class OrthogonalOptions(GuessOptions):
    """Options of W̃⊥."""

    k: Count | Rank = Field(
        default=10,
        description="Dimension of the guess space, or `rank` for the rank of each sample's upstream Jacobian.",
    )
    solver: Literal["auto", "ritz", "shared", "mean", "krylov", "svd"] = Field(
        default="auto",
        description="`auto`: `ritz` where the next layer is a Linear behind an elementwise activation, `mean` "
        "elsewhere (with k=rank `krylov`, which is unbiased then); `ritz`: top-k Ritz vectors of each sample in the "
        "space tracked for W; `shared`: the top-k space of W itself, masked sample by sample; `mean`: the top-k space "
        "of all samples' W̃ together, whitened by their mean, at about the price of `wt` in any network; `krylov`: "
        "block Lanczos on products with W̃, for any network; `svd`: one SVD a sample, as in the paper, for small sizes.",
    )
    oversampling: Count = Field(
        default=2,
        description="`ritz` tracks r = oversampling · k singular vectors of W, at most its rank; `krylov` takes so "
        "many blocks of k.",
    )
    power_steps: int = Field(
        default=2, ge=0, description="`ritz`: block power steps per sample in the tracked space; 0 is `shared`."
    )
    refresh: Count | None = Field(
        default=None,
        description="`ritz`, `shared` and `mean`: parameter updates between two warm power steps; default: 10, and 50 "
        "for `mean` where W̃ is known by its products alone.",
    )


class OrthogonalBottomOptions(GuessOptions):
    """Options of W̃⊥-bottom."""

    k: Count = Field(default=10, description="Number of smallest singular values that span the guess space.")


class NewtonSchulzOptions(GuessOptions):
    """Options of W̃⊥-NS."""

    k: Count = Field(default=10, description="Dimension of the guess space that the step polynomial aims at.")
    solver: Literal["auto", "gram", "krylov", "batched"] = Field(
        default="auto",
        description="`auto`: `gram` where the next layer is a Linear behind an elementwise activation, `krylov` "
        "elsewhere; `gram`: the iteration on r × r Gram matrices in the space tracked for W; `krylov`: in the Krylov "
        "space of each sample, for any network; `batched`: on one matrix a sample, as in the paper, for small sizes.",
    )
    oversampling: Count = Field(
        default=2,
        description="`gram` tracks r = oversampling · k singular vectors of W, at most its rank; `krylov` takes so "
        "many blocks of k.",
    )
    refresh: Count = Field(
        default=50, description="Parameter updates between two computations of σ_k (and, for `gram`, power steps on W)."
    )
    coeffs: str | None = Field(
        default=None,
        description="Coefficients: a file from `fgcli fit-ns-coeffs`, `paper` (the table that ships with fg), the "
        "table itself, `sign-cut` (exact wherever σ_k and σ_{k+1} differ by 5 %), or an orthogonaliser, which cuts "
        "nothing off: `muon`, `bjorck-bowie`, `kovarik`, `polar-express`, `cans`. By default the last table "
        "fitted, if any, or the one that ships. A run's recipe is written with the table itself.",
    )


class CheckpointOptions(Options):
    """Options of backpropagation with checkpointing."""

    segments: Count | None = Field(
        default=None, description="Stretches that an nn.Sequential is cut into; by default the root of its length."
    )


class WeightNoiseOptions(Options):
    """Options of noise for weights."""

    noise: Literal["full", "low-rank", "subspace", "sparse"] = Field(
        default="full",
        description="Noise of weights: `full`; `low-rank`: A Bᵀ / √rank (EGGROLL); `subspace`: U Z Vᵀ of rank × rank "
        "dimensions, redrawn seldom (SubZero); `sparse`: in a share of the entries, redrawn seldom.",
    )
    rank: Count = Field(default=1, description="Of `low-rank` noise, or the root of the dimension of a `subspace`.")
    density: float = Field(default=0.1, gt=0, le=1, description="Share of the entries that have `sparse` noise.")
    redraw: Count = Field(default=1, description="Steps between two draws of a `subspace`, or of `sparse` entries.")

    @model_validator(mode="after")
    def _options_are_of_this_noise(self) -> Self:
        for name, kinds in (
            ("rank", ("low-rank", "subspace")),
            ("density", ("sparse",)),
            ("redraw", ("subspace", "sparse")),
        ):
            value = getattr(self, name)
            if self.noise not in kinds and value != WeightNoiseOptions.model_fields[name].default:
                raise ValueError(
                    f"{name} is {value:g}; it is of noise {' or '.join(kinds)}: set noise, or leave {name} out"
                )
        return self


class WeightPerturbationOptions(MemoryOptions, WeightNoiseOptions):
    """Options of weight perturbation."""

    @model_validator(mode="after")
    def _noise_suits(self) -> Self:
        if self.noise != "full" and self.combine == "orthogonal":
            raise ValueError(f"noise is {self.noise}; combine orthogonal makes its own of full noise: use combine mean")
        return self


class SpsaOptions(WeightNoiseOptions):
    """Options of zero-order estimates."""

    epsilon: float = Field(
        default=1e-3, gt=0, description="Length of a step along a direction, whose entries have variance 1."
    )
    tangents: Count = Field(default=1, description="Directions in one step.")
    draws: Literal["rademacher", "gaussian"] = Field(
        default="rademacher",
        description="Noise: random signs, or Gaussian; of `low-rank` and `subspace`, their factors'.",
    )
    sides: Literal["two", "one"] = Field(
        default="two", description="Differences of L(W + εz) from L(W - εz), or from L(W), in half as many passes."
    )
    normalise: bool = Field(
        default=False, description="Divide by the standard deviation of the losses over the directions (FZOO)."
    )

    @model_validator(mode="after")
    def _directions_suffice(self) -> Self:
        if self.normalise and self.tangents < 2:
            raise ValueError(f"tangents is {self.tangents}; normalise takes the deviation of at least 2: set tangents")
        if self.normalise and self.sides == "two":
            raise ValueError("sides is two; normalise is of one-sided differences: set sides to one")
        return self


class MezoOptions(SpsaOptions):
    """Options of MeZO: those of `spsa`, with Gaussian directions."""

    draws: Literal["rademacher", "gaussian"] = Field(
        default="gaussian",
        description="Noise: random signs, or Gaussian; of `low-rank` and `subspace`, their factors'.",
    )


class FzooOptions(SpsaOptions):
    """Options of FZOO: those of `spsa`, with its defaults."""

    tangents: Count = Field(default=8, description="Directions in one step.")
    sides: Literal["two", "one"] = Field(
        default="one", description="Differences of L(W + εz) from L(W), or from L(W - εz), in twice as many passes."
    )
    normalise: bool = Field(
        default=True, description="Divide by the standard deviation of the losses over the directions (FZOO)."
    )


class PreconditionedOptions(GuessOptions):
    """Options of W̃ᴾ."""

    iterations: Count = Field(
        default=64,
        description="Conjugate gradient iterations at most, where W̃ is known by its products alone; each costs two.",
    )


class PepitaOptions(Options):
    """Options of PEPITA."""

    scale: float = Field(
        default=0.05, gt=0, description="Of the random matrix F, whose entries have variance 2 · scale² / inputs."
    )


class DirectionalOptions(Options):
    """Options of directional gradient descent."""

    direction: Literal["local", "direct", "momentum", "random"] = Field(
        default="local",
        description="The candidate direction: the gradient that learned feedback predicts (`local`, `direct`), the "
        "running mean of the estimates with a share of noise (`momentum`), or noise alone (`random`, a control).",
    )
    decay: float = Field(default=0.9, ge=0, lt=1, description="`momentum`: share of the mean that a step keeps.")
    noise: float = Field(default=0.3, gt=0, description="`momentum`: length of the noise, where the mean has length 1.")

    @model_validator(mode="after")
    def _options_are_of_momentum(self) -> Self:
        for name in ("decay", "noise"):
            value = getattr(self, name)
            if self.direction != "momentum" and value != DirectionalOptions.model_fields[name].default:
                raise ValueError(
                    f"{name} is {value:g}; it is of direction momentum: set direction, or leave {name} out"
                )
        return self


class SofoOptions(Options):
    """Options of SOFO."""

    tangents: Count = Field(default=32, description="K, the dimension of the random subspace of one step.")
    damping: float = Field(
        default=1e-3, ge=0, description="λ, as a share of the largest eigenvalue of the K × K matrix."
    )


class LocalGradientOptions(Options):
    """Options of forward gradients along the gradients of local losses."""

    directions: Literal["blocks", "joint"] = Field(
        default="blocks",
        description="`blocks`: a pass with tangents for each block, which projects its gradient alone; `joint`: one "
        "pass for all, the projection of all blocks' gradients together.",
    )
