"""Activation perturbation (Ren et al. 2023, arXiv:2210.03310), plain and masked by the layer's own activation."""

from functools import partial
from typing import ClassVar

from fgcli.extend.options import GuessOptions
from fgcli.gradient.guess import GuessMethod, Isotropic, Layer, LinearMap, Needs
from fgcli.gradient.upstream import LinearUpstream
from fgcli.spectra.dense import masked


class ActivationPerturbation(Isotropic):
    """y ~ N(0, I): unbiased, with the variance of the layer's full width."""

    def __init__(self, options: GuessOptions) -> None:
        pass


class MaskedActivationPerturbation(GuessMethod):
    """y = M z: N(0, I) where the layer's own ReLU is active (Singhal et al. 2023, arXiv:2312.04709).

    Unbiased for ReLU, since g is 0 where M is. For another activation M is where its slope is not 0.
    """

    needs: ClassVar[Needs] = "matrix"

    def __init__(self, options: GuessOptions) -> None:
        pass

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: None) -> LinearMap:
        return LinearMap(layer.dim, partial(masked, upstream.slope != 0))
