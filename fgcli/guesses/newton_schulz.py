"""W̃⊥-NS: W̃⊥ by Newton–Schulz iterations (Sec. 3.2 of "Towards Scalable Backpropagation-Free Gradient Estimation").

y = p^N(W̃)ᵀ ε, where the polynomial p^N approximates the step at σ_k: singular values above it become about 1, those
below about 0. As in the paper, p comes from a table over σ (the set nearest to the current σ_k) and σ_k is computed
once every `refresh` updates: by the implicitly restarted Lanczos method in `batched`, from the tracked space in `gram`.

What the paper leaves open: the step lies midway between σ_k and σ_{k+1}, so that σ_k itself is kept (the paper's f
maps it to 0); both are those of the shared W relative to its spectral norm, a ratio that masking hardly changes; and
every sample's W̃_b is divided by its own bound on its spectral norm, since p diverges above 1. The bound is
tr((W̃W̃ᵀ)⁸)^(1/16), at most rank^(1/16) times the norm and within a percent of it where σ₁ stands out.
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from fgcli.gradient.guess import LinearGuess, Needs
from fgcli.gradient.sites import Site
from fgcli.guesses.options import NewtonSchulzOptions
from fgcli.spectra.coefficients import MARGIN, CoefficientTable
from fgcli.spectra.lanczos import LeadingSingular, leading_singular
from fgcli.spectra.masked import MaskedBasis
from fgcli.spectra.scaling import near_one
from fgcli.spectra.step_polynomial import StepPolynomial
from fgcli.spectra.table_file import find_table, to_text
from fgcli.spectra.tracking import image_of, leading_left_vectors

_log = logging.getLogger("fgcli")


def newton_schulz(options: NewtonSchulzOptions) -> LinearGuess:
    """W̃⊥-NS by the solver asked for."""
    table = find_table(options.coeffs)
    return NewtonSchulzBatched(options, table) if options.solver == "batched" else NewtonSchulzGram(options, table)


class Polynomials:
    """Those of a table, chosen by a site's σ_k. Says once where a table with gaps has none for it."""

    def __init__(self, table: CoefficientTable) -> None:
        self.table = table
        self._says_gaps = not table.covers()

    def at(self, site: Site) -> StepPolynomial:
        """The polynomial nearest to where the step belongs, which `prepare` has left in the site's memory."""
        step = float(site.memory["step"])
        fit = self.table.nearest(step)
        if self._says_gaps and abs(fit.sigma - step) > MARGIN:
            self._says_gaps = False
            _log.warning(
                "the coefficient table has no polynomial within %g of σ_k = %.2f of site '%s'; that of σ = %g is used, "
                "so that the guess space has another dimension than k",
                MARGIN, step, site.name, fit.sigma,
            )  # fmt: skip
        return fit.polynomial


class NewtonSchulzBatched:
    """The paper's literal iteration, on one matrix [d_out, d_in] a sample."""

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: NewtonSchulzOptions, table: CoefficientTable) -> None:
        self.k, self.refresh, self.polynomials = options.k, options.refresh, Polynomials(table)

    def prepare(self, site: Site) -> StepPolynomial:
        if "step" not in site.memory or site.step % self.refresh == 0:
            site.memory["step"] = _step(leading_singular(site.next_weight, self.k + 1), self.k)
        return self.polynomials.at(site)

    def settled_options(self) -> dict[str, str]:
        return {"coeffs": to_text(self.polynomials.table)}

    def noise_dim(self, site: Site, prepared: StepPolynomial) -> int:
        return site.upstream.output_dim

    def map(self, site: Site, prepared: StepPolynomial, z: Tensor) -> Tensor:
        dense = near_one(site.upstream.dense())
        wide = dense.shape[1] <= dense.shape[2]
        bound = spectral_norm_bound(dense @ dense.mT if wide else dense.mT @ dense)
        transformed = prepared.apply(dense / bound.view(-1, 1, 1))
        columns = z.unsqueeze(-1) if z.dim() == 2 else z
        return (transformed.mT @ columns).reshape(len(z), -1, *z.shape[2:])


@dataclass(frozen=True)
class Tracked:
    """The step polynomial and R = WᵀQ, Q the tracked left singular vectors of W."""

    polynomial: StepPolynomial
    basis: MaskedBasis


class NewtonSchulzGram:
    """The same polynomial on QᵀW̃ with r tracked vectors Q, through its Gram matrix C_b = RᵀM_bR [r, r].

    p^N(A)ᵀ = Aᵀ h(AAᵀ) for A = QᵀW̃_b, so y_b = M_b R h(C_b) z, from products of r × r matrices alone. With r = rank(W)
    it is the literal iteration.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: NewtonSchulzOptions, table: CoefficientTable) -> None:
        self.k, self.refresh, self.polynomials = options.k, options.refresh, Polynomials(table)
        self.oversampling = options.oversampling

    def prepare(self, site: Site) -> Tracked:
        weight, memory = site.next_weight, site.memory
        refreshed = "left" not in memory or site.step % self.refresh == 0
        if refreshed:
            memory["left"] = leading_left_vectors(weight, self.k * self.oversampling, start=memory.get("left"))
        basis = MaskedBasis.of(image_of(weight, memory["left"]))
        if refreshed:  # the Ritz values are the singular values as far as they are tracked, up to a factor
            memory["step"] = _step(LeadingSingular(basis.basis.norm(dim=0)), self.k)
        return Tracked(self.polynomials.at(site), basis)

    def settled_options(self) -> dict[str, str]:
        return {"coeffs": to_text(self.polynomials.table)}

    def noise_dim(self, site: Site, prepared: Tracked) -> int:
        return prepared.basis.basis.shape[1]

    def map(self, site: Site, prepared: Tracked, z: Tensor) -> Tensor:
        return prepared.basis.in_chunks(partial(self._map, prepared), site.linear_upstream.slope, z)

    def _map(self, prepared: Tracked, slope: Tensor, z: Tensor) -> Tensor:
        gram = prepared.basis.gram(slope)
        bound = spectral_norm_bound(gram)
        scaled = gram / bound.square().view(-1, 1, 1)
        columns = z.unsqueeze(-1) if z.dim() == 2 else z
        u = prepared.polynomial.gram_factor_times(scaled, columns) / bound.view(-1, 1, 1)
        return prepared.basis.combine(slope, u.squeeze(-1) if z.dim() == 2 else u)


def spectral_norm_bound(gram: Tensor) -> Tensor:
    """tr(C⁸)^(1/16) >= σ₁ of A for C = AAᵀ [batch, r, r]: [batch], 1 where C is 0.

    Computed on C / tr(C), so that no power under- or overflows.
    """
    trace = gram.diagonal(dim1=1, dim2=2).sum(1)
    trace = torch.where(trace > 0, trace, 1)
    square = gram / trace.view(-1, 1, 1)
    square = square @ square
    eighth = (square @ square).square().sum((1, 2))
    bound = trace.sqrt() * eighth.pow(1 / 16)
    return torch.where(bound > 0, bound, 1)


def _step(singular: LeadingSingular, k: int) -> Tensor:
    """Where the step belongs, in single precision on every device, so that a resumed run reads the same number."""
    return torch.tensor(singular.relative_step(k), dtype=torch.float32)
