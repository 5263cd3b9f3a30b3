"""Options of the guess methods. Imports no torch: recipes and listings read them from here."""

from typing import Annotated, Literal

from pydantic import Field

from fgcli.extend.entry import Rank
from fgcli.extend.options import GuessOptions, Options

Count = Annotated[int, Field(ge=1)]


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


class PreconditionedOptions(GuessOptions):
    """Options of W̃ᴾ."""

    iterations: Count = Field(
        default=64,
        description="Conjugate gradient iterations at most, where W̃ is known by its products alone; each costs two.",
    )
