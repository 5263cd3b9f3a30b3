"""W̃⊥ and its control W̃⊥-bottom (Sec. 3.1 of "Towards Scalable Backpropagation-Free Gradient Estimation").

y = W̃'ᵀε with W̃' = U_k V_kᵀ has the law of y = V_k z, z ~ N(0, I_k): U is never needed, and any orthonormal basis of
the same subspace gives the same law. By the chain rule g lies in Im(W̃ᵀ), so k = rank(W̃) is exactly unbiased and a
smaller k has the bias -(I - V_k V_kᵀ) g and nothing else. (The paper reads an identity covariance as necessary for
that; it is only sufficient.)

Five solvers. `svd` is the paper's (literal.py). `shared` guesses in span(M_b V), V the top-k right singular vectors of
the unmasked W: a sibling of W̃⊥, not an approximation of it. `ritz` finds each sample's top-k singular vectors within
the span of M_b V_r, r > k; with r = rank(W) and enough power steps that is W̃⊥ itself (both: tracked.py). Neither
allocates anything of size batch × d × d, and both guess within Im(W̃ᵀ) exactly. `krylov` knows W̃ by its products alone,
and so runs in any network. `mean` is another sibling, at one product a guess, in any network. `auto` is `ritz` where W̃
is a matrix behind a slope, `mean` elsewhere: as accurate as `krylov` where both were measured, at a tenth of its time.
But with k = rank(W̃) it is `krylov`, which is unbiased then.
"""

from fgcli.gradient.guess import GuessMethod
from fgcli.methods.by_form import ByForm
from fgcli.methods.options import OrthogonalOptions
from fgcli.methods.orthogonal.krylov import OrthogonalKrylov
from fgcli.methods.orthogonal.literal import OrthogonalBottom, OrthogonalSVD
from fgcli.methods.orthogonal.mean import OrthogonalMean
from fgcli.methods.orthogonal.tracked import OrthogonalTracked

__all__ = ["OrthogonalBottom", "orthogonal"]


def orthogonal(options: OrthogonalOptions) -> GuessMethod:
    """W̃⊥ by the solver asked for."""
    match options.solver:
        case "auto":
            # With k = rank a guess is unbiased, which `mean` is on average over the samples alone.
            by_products = OrthogonalKrylov(options) if options.k == "rank" else OrthogonalMean(options)
            return ByForm(OrthogonalTracked(options), by_products)
        case "ritz" | "shared":
            return OrthogonalTracked(options)
        case "mean":
            return OrthogonalMean(options)
        case "krylov":
            return OrthogonalKrylov(options)
        case "svd":
            return OrthogonalSVD(options)
