"""W̃ᴾ: the guess of W̃ᵀ, preconditioned to be unbiased (Sec. 3.3 of "Towards Scalable Backpropagation-Free ...")."""

from functools import partial
from typing import ClassVar

from torch import Tensor

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap, Memory, Needs
from fgcli.gradient.upstream import LinearUpstream, UpstreamJacobian
from fgcli.methods.by_form import ByForm
from fgcli.methods.options import PreconditionedOptions
from fgcli.spectra.least_squares import project_onto_rows
from fgcli.spectra.masked import MaskedBasis


def preconditioned(options: PreconditionedOptions) -> GuessMethod:
    """W̃ᴾ by the matrix where there is one, by products with W̃ elsewhere."""
    return ByForm(Preconditioned(), PreconditionedByProducts(options))


class Preconditioned(GuessMethod):
    """y = W̃'ᵀ ε with W̃'ᵀ = (W̃_σᵀW̃_σ)^{-1/2} W̃_σᵀ (Eq. 12), where every singular value of W̃' is 1.

    With the reduced SVD W̃ = U S Vᵀ this is V Uᵀ ε: σ cancels (Eq. 15), and y has the law of V z, z ~ N(0, I). Where
    d_out >= d_in, V is square and y ~ N(0, I), whatever W̃ is. Where d_out < d_in (the layer before the output), the
    paper's identity covariance is out of reach; y ~ N(0, projector onto Im(W̃ᵀ)), which contains g, so that the guess
    is unbiased there too. Nothing of the SVD is ever computed.
    """

    needs: ClassVar[Needs] = "matrix"

    def prepare(self, layer: Layer, memory: Memory) -> MaskedBasis | None:
        assert layer.next_weight is not None
        d_out, d_in = layer.next_weight.shape
        return MaskedBasis.of(layer.next_weight.T) if d_out < d_in else None

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: MaskedBasis | None) -> LinearMap:
        map_ = Tensor.clone if prepared is None else prepared.projection(upstream.slope)
        return LinearMap(min(upstream.weight.shape), map_)


class PreconditionedByProducts(GuessMethod):
    """The same law from z ~ N(0, I) in the space of s: y = z where d_out >= d_in, else y = W̃⁺W̃ z.

    The projection comes from conjugate gradients, which are linear in z as far as they have converged; all their
    iterates lie in Im(W̃ᵀ).
    """

    def __init__(self, options: PreconditionedOptions) -> None:
        self.iterations = options.iterations

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        if upstream.output_dim >= upstream.input_dim:
            return LinearMap(layer.dim, Tensor.clone)
        return LinearMap(layer.dim, partial(project_onto_rows, upstream, iterations=self.iterations))
