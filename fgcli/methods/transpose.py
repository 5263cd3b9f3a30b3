"""W̃ᵀ (Singhal et al. 2023, "How to guess a gradient", arXiv:2312.04709)."""

from fgcli.gradient.guess import GuessMethod, Layer, LinearMap
from fgcli.gradient.upstream import UpstreamJacobian
from fgcli.methods.options import TransposeOptions


class Transpose(GuessMethod):
    """y = W̃ᵀ ε with ε ~ N(0, I) (Eq. 4 of the W̃⊥ paper): Cov(y) = W̃ᵀW̃, biased unless that is I on Im(W̃ᵀ)."""

    reads_output = False

    def __init__(self, options: TransposeOptions) -> None:
        pass

    def linearize(self, layer: Layer, upstream: UpstreamJacobian, prepared: None) -> LinearMap:
        return LinearMap(upstream.output_dim, upstream.apply_transpose)
