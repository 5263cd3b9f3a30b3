"""W̃⊥-NS with `coeffs=sign-cut`: the projector onto the k leading right singular vectors, by the sign of a matrix.

y = P z with P = (I + sign(W̃ᵀW̃ - τ²)) / 2 has the law of W̃⊥'s guess (fgcli.spectra.sign). The cut τ lies between each
sample's own σ_k and σ_{k+1}, so that P is exact wherever these differ by 5 %; closer ones are mapped between 0 and 1.
The eigenvalues that this takes are those of r × r matrices in `gram` and `krylov`.
"""

from functools import partial
from typing import ClassVar

from torch import Tensor

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory, Needs
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
from fgcli.methods.by_form import ByForm
from fgcli.methods.options import NewtonSchulzOptions
from fgcli.methods.orthogonal.krylov import batch_of, refuse_too_large, start_block
from fgcli.methods.orthogonal.tracked import tracked_basis
from fgcli.spectra.dense import times
from fgcli.spectra.krylov import krylov_images, mean_image
from fgcli.spectra.masked import Coordinates, MaskedBasis
from fgcli.spectra.scaling import near_one
from fgcli.spectra.sign_cut import top_projector, top_root


def sign_cut(options: NewtonSchulzOptions) -> GuessMethod:
    """That of the solver asked for."""
    if options.solver == "auto":
        return ByForm(SignCutGram(options), SignCutKrylov(options))
    return {"gram": SignCutGram, "krylov": SignCutKrylov, "batched": SignCutBatched}[options.solver](options)


class SignCutBatched(GuessMethod):
    """P itself [batch, d_in, d_in], for small sizes."""

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: NewtonSchulzOptions) -> None:
        self.k = options.k

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        dense = near_one(upstream.dense())
        projector = top_projector(dense.mT @ dense, self.k)
        return LinearMap(upstream.input_dim, partial(times, projector))


class SignCutGram(GuessMethod):
    """In the span of M_b R, R = WᵀQ with r tracked left singular vectors Q of W: y = M_b R T z with T of C_b = RᵀM_bR.

    With r = rank(W) it is W̃⊥; with fewer it is that of QᵀW̃, as `ritz` of `wperp`.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: NewtonSchulzOptions) -> None:
        self.k, self.oversampling, self.refresh = options.k, options.oversampling, options.refresh

    def prepare(self, layer: Layer, memory: Memory) -> MaskedBasis:
        return tracked_basis(layer, memory, self.k * self.oversampling, self.refresh)

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: MaskedBasis) -> LinearMap:
        def coordinates(slope: Tensor) -> Coordinates:
            return top_root(prepared.gram(slope), self.k)

        return LinearMap(prepared.basis.shape[1], prepared.mapped(coordinates, upstream.slope))


class SignCutKrylov(GuessMethod):
    """In the Krylov space of each sample, for any network: y = R T z, R = W̃ᵀQ."""

    def __init__(self, options: NewtonSchulzOptions) -> None:
        self.k, self.oversampling = options.k, options.oversampling

    def prepare(self, layer: Layer, memory: Memory) -> Tensor:
        return start_block(layer, memory, min(self.k, layer.dim))

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: Tensor) -> LinearMap:
        r = min(self.oversampling * prepared.shape[1], upstream.output_dim)
        refuse_too_large(layer, upstream, r)
        images = krylov_images(upstream, prepared, r, batch_of(layer))
        statistics = {"image": mean_image(images, prepared)}
        images = near_one(images)
        in_space = top_root(images.mT @ images, self.k)
        return LinearMap(r, lambda z: times(images, in_space(z)), statistics)
