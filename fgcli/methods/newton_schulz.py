"""W̃⊥-NS: W̃⊥ by Newton–Schulz iterations (Sec. 3.2 of "Towards Scalable Backpropagation-Free Gradient Estimation").

y = p^N(W̃)ᵀ ε, where the polynomial p^N approximates the step at σ_k: singular values above it become about 1, those
below about 0. As in the paper, p comes from a table over σ (the set nearest to the current σ_k) and σ_k is computed
once every `refresh` updates: by the implicitly restarted Lanczos method in `batched`, from the tracked space in `gram`.

`coeffs` also names sets that are no table: the orthogonalisers of fgcli.spectra.coefficient_sets, one polynomial
whatever σ_k is, and `sign-cut` (fgcli.methods.sign_cut), which is another iteration.

What the paper leaves open: the step lies midway between σ_k and σ_{k+1}, so that σ_k itself is kept (the paper's f
maps it to 0); both are those of the shared W relative to its spectral norm, a ratio that masking hardly changes; and
every sample's W̃_b is divided by its own bound on its spectral norm, since p diverges above 1. The bound is
tr((W̃W̃ᵀ)⁸)^(1/16), at most rank^(1/16) times the norm and within a percent of it where σ₁ stands out.
"""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory, Needs
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
from fgcli.methods.by_form import ByForm
from fgcli.methods.options import NewtonSchulzOptions
from fgcli.methods.orthogonal.krylov import batch_of, refuse_too_large, start_block
from fgcli.methods.orthogonal.tracked import tracked_basis
from fgcli.methods.sign_cut import sign_cut
from fgcli.spectra.coefficient_sets import ORTHOGONALISERS, SIGN_CUT, orthogonaliser
from fgcli.spectra.coefficients import MARGIN
from fgcli.spectra.dense import times
from fgcli.spectra.krylov import krylov_images, mean_image
from fgcli.spectra.lanczos import leading_singular, relative_step
from fgcli.spectra.masked import MaskedBasis
from fgcli.spectra.scaling import near_one
from fgcli.spectra.step_polynomial import StepPolynomial
from fgcli.spectra.table_file import find_table, to_text

_log = logging.getLogger("fgcli")


def newton_schulz(options: NewtonSchulzOptions) -> GuessMethod:
    """W̃⊥-NS by the solver asked for."""
    if options.coeffs == SIGN_CUT:
        return sign_cut(options)
    polynomials = Polynomials(options.coeffs)
    if options.solver == "auto":
        return ByForm(NewtonSchulzGram(options, polynomials), NewtonSchulzKrylov(options, polynomials))
    solvers = {"gram": NewtonSchulzGram, "krylov": NewtonSchulzKrylov, "batched": NewtonSchulzBatched}
    return solvers[options.solver](options, polynomials)


class Polynomials:
    """Those of a table, chosen by a site's σ_k, or a named one for all σ_k.

    Says once where a table with gaps has none for it.
    """

    def __init__(self, coeffs: str | None) -> None:
        self.table, self.one = None, None
        self._says_gaps = False
        if coeffs in ORTHOGONALISERS:
            self.one, self.name = orthogonaliser(coeffs), coeffs
        else:
            self.table = find_table(coeffs)
            self.name = to_text(self.table)
            self._says_gaps = not self.table.covers()

    def nearest(self, step: float, layer: Layer) -> StepPolynomial:
        """The polynomial nearest to where the step belongs."""
        if self.table is None:
            assert self.one is not None
            return self.one
        fit = self.table.nearest(step)
        if self._says_gaps and abs(fit.sigma - step) > MARGIN:
            self._says_gaps = False
            _log.warning(
                "the coefficient table has no polynomial within %g of σ_k = %.2f of site '%s'; that of σ = %g is used, "
                "so that the guess space has another dimension than k",
                MARGIN, step, layer.name, fit.sigma,
            )  # fmt: skip
        return fit.polynomial


class _WithTable(GuessMethod):
    """What all solvers have. A run's recipe is written with the coefficients themselves."""

    def __init__(self, options: NewtonSchulzOptions, polynomials: Polynomials) -> None:
        self.k, self.refresh, self.polynomials = options.k, options.refresh, polynomials
        self.oversampling = options.oversampling

    def settled_options(self) -> dict[str, str]:
        return {"coeffs": self.polynomials.name}


class NewtonSchulzBatched(_WithTable):
    """The paper's literal iteration, on one matrix [d_out, d_in] a sample."""

    needs: ClassVar[Needs] = "matrix"

    def prepare(self, layer: Layer, memory: Memory) -> StepPolynomial:
        assert layer.next_weight is not None
        if "step" not in memory or layer.step % self.refresh == 0:
            memory["step"] = _step(leading_singular(layer.next_weight, self.k + 1), self.k)
        return self.polynomials.nearest(float(memory.tensors["step"]), layer)

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: StepPolynomial) -> LinearMap:
        dense = near_one(upstream.dense())
        wide = dense.shape[1] <= dense.shape[2]
        bound = spectral_norm_bound(dense @ dense.mT if wide else dense.mT @ dense)
        transformed = prepared.apply(dense / bound.view(-1, 1, 1))
        return LinearMap(upstream.output_dim, partial(times, transformed.mT))


class NewtonSchulzGram(_WithTable):
    """The same polynomial on QᵀW̃ with r tracked vectors Q, through its Gram matrix C_b = RᵀM_bR [r, r].

    p^N(A)ᵀ = Aᵀ h(AAᵀ) for A = QᵀW̃_b, so y_b = M_b R h(C_b) z, from products of r × r matrices alone. With r = rank(W)
    it is the literal iteration.
    """

    needs: ClassVar[Needs] = "matrix"

    def prepare(self, layer: Layer, memory: Memory) -> tuple[StepPolynomial, MaskedBasis]:
        basis = tracked_basis(layer, memory, self.k * self.oversampling, self.refresh)
        # The Ritz values are the singular values as far as they are tracked, up to a factor.
        if "step" not in memory or layer.step % self.refresh == 0:
            memory["step"] = _step(basis.basis.norm(dim=0), self.k)
        return self.polynomials.nearest(float(memory.tensors["step"]), layer), basis

    def linearize(
        self, layer: Layer, upstream: LinearUpstream, prepared: tuple[StepPolynomial, MaskedBasis]
    ) -> LinearMap:
        polynomial, basis = prepared

        def coordinates(slope: Tensor) -> Callable[[Tensor], Tensor]:
            gram = basis.gram(slope)
            bound = spectral_norm_bound(gram)
            factors = tuple(polynomial.gram_factors(gram / bound.square().view(-1, 1, 1)))
            return partial(_product, factors, bound)

        return LinearMap(basis.basis.shape[1], basis.mapped(coordinates, upstream.slope))


def _product(factors: Sequence[Tensor], bound: Tensor, z: Tensor) -> Tensor:
    """The product of factors [batch, r, r] with z [batch, r(, columns)], over the bounds [batch]."""
    for factor in factors:
        z = times(factor, z)
    return z / bound.view(-1, *[1] * (z.dim() - 1))


class NewtonSchulzKrylov(_WithTable):
    """y = R h(RᵀR) z with p^N(A)ᵀ = Aᵀ h(AAᵀ) for A = QᵀW̃: the step polynomial in each sample's Krylov space.

    With r = rank(W̃) it is the literal iteration. The place of the step, midway between σ_k and σ_{k+1} over σ_1, is
    computed once every `refresh` updates, as in the paper: in that update for each sample, then the mean of those.
    """

    def prepare(self, layer: Layer, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """Where this update's iterations start, X [d, k], and where its step function belongs, if that is known."""
        known = None if layer.step % self.refresh == 0 else memory.tensors.get("step")
        return start_block(layer, memory, min(self.k, layer.dim)), known

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: tuple[Tensor, Tensor | None]) -> LinearMap:
        start, steps = prepared
        r = min(self.oversampling * start.shape[1], upstream.output_dim)
        refuse_too_large(layer, upstream, r, ", or use wperp")
        images = krylov_images(upstream, start, r, batch_of(layer))
        statistics = {"image": mean_image(images, start)}
        images = near_one(images)
        gram = images.mT @ images
        if steps is None:
            steps = _steps(gram, self.k)
            statistics["step"] = steps.mean()
        bound = spectral_norm_bound(gram)
        scaled = gram / bound.square().view(-1, 1, 1)
        factors = self._factors(layer, steps, scaled)
        return LinearMap(r, lambda z: times(images, _product(factors, bound, z)), statistics)

    def _factors(self, layer: Layer, steps: Tensor, gram: Tensor) -> Sequence[Tensor]:
        """Those of h(C) with the polynomial of the one step, or of each sample's."""
        if steps.dim() == 0:
            return tuple(self.polynomials.nearest(float(steps), layer).gram_factors(gram))
        chosen = [self.polynomials.nearest(step, layer) for step in steps.tolist()]
        whole = torch.empty_like(gram)
        for polynomial in set(chosen):
            own = torch.tensor([one == polynomial for one in chosen], device=gram.device)
            whole[own] = polynomial.gram_factor(gram[own])
        return (whole,)


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


def _step(singular: Tensor, k: int) -> Tensor:
    """Where the step belongs, in single precision on every device, so that a resumed run reads the same number."""
    return torch.tensor(relative_step(singular, k), dtype=torch.float32)


def _steps(gram: Tensor, k: int) -> Tensor:
    """Where the step of each sample belongs, as in `relative_step`, from RᵀR [batch, r, r]: [batch]."""
    singular = torch.linalg.eigvalsh(gram.cpu().double()).flip(1).clamp_min(0).sqrt()
    around = nn.functional.pad(singular, (0, 2))[:, k - 1 : k + 1] if k <= singular.shape[1] else singular[:, :1] * 0
    largest = singular[:, 0]
    return (around.sum(1) / 2 / torch.where(largest > 0, largest, 1)).float()
