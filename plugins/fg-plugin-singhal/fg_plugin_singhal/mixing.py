"""Activation mixing (Singhal et al. 2023, "How to guess a gradient", arXiv:2312.04709).

A weight's updates are sums of outer products g xᵀ, so that a trained W_{i+1} holds much of the span of the activations
x_{i+1} it has seen, and with it so does g_i = M_i W_{i+1}ᵀ g_{i+1}: a random mixture of the batch's activations guesses
where the gradient is, without knowing a loss.
"""

from typing import ClassVar

from torch import Tensor

from fgcli import GuessMethod, GuessOptions, Layer, LinearMap, LinearUpstream, Needs


class ActivationMixing(GuessMethod):
    """y_b = M_b Xᵀz_b / √B with z_b ~ N(0, I_B) and X [B, d] the batch's activations: Cov(y_b) = M_b XᵀX M_b / B.

    Settled here: each sample mixes with weights of its own, as fg's guesses are drawn per sample; the 1/√B makes the
    guess's length that of an activation, whatever the batch's size; x = s · slope, which is the activation for ReLU
    and leaky ReLU, and stands in for it elsewhere. Biased.
    """

    needs: ClassVar[Needs] = "matrix"
    whole_batch: ClassVar[bool] = True

    def __init__(self, options: GuessOptions) -> None:
        pass

    def linearize(self, layer: Layer, upstream: LinearUpstream, prepared: None) -> LinearMap:
        assert layer.output is not None
        x = layer.output * upstream.slope
        mask = (upstream.slope != 0).to(x) / len(x) ** 0.5

        def mixed(z: Tensor) -> Tensor:
            return (z @ x) * mask if z.dim() == 2 else (x.T @ z) * mask.unsqueeze(-1)

        return LinearMap(len(x), mixed)
