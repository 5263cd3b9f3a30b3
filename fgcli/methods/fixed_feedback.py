"""Feedback of the literature, as its authors have it: what goes back is not the weight's transpose.

feedback-alignment          δ_i = φ'(s_i) ⊙ B_{i+1} δ_{i+1}, B a fixed random matrix for each layer (Lillicrap et al.
                            2016)
sign-symmetry               the same with sign(W)ᵀ for B (Liao et al. 2016), scaled to the norm of W (Moskovitz et al.
                            2018)
direct-feedback-alignment   δ_i = φ'(s_i) ⊙ B_i e, B fixed and random (Nøkland 2016)
fdfa                        the same with B_i ← (1 - β) B_i + β mean_b(y_b (Jy)_bᵀ), y noise at the inputs of all layers
                            and Jy its image at the output, from one forward pass (Bacho and Chu 2024)

The first two go through every layer, one after another: as long a way as backpropagation's, without its weights. No
weight's transpose is used, not even the last layer's. The pieces between the layers are passed as in all feedback: the
derivatives of normalisation, residual sums and attention are their own.

Cost: for the first two a forward and a backward pass, and B beside W; for the other two e times one matrix a layer, in
`fdfa` also a forward pass with a tangent.

What is not true of them: that they estimate the gradient. The prediction is biased whatever B is. Where B is fixed,
only training brings W to it. FDFA's B is a mean over samples, while the Jacobian differs from one to the next.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fgcli.extend.options import EngineOptions
from fgcli.gradient.feedback import FeedbackRule, Place
from fgcli.gradient.precision import wide
from fgcli.methods.feedback import DirectFeedback, refuse_given

_LEARNING = ("feedback_learning", "feedback_rate", "feedback_every")


class FeedbackAlignment(FeedbackRule):
    """A fixed B of the shape of W, with the variance that PyTorch's layers start with: 1 / (3 · inputs of a unit)."""

    layers = None

    def __init__(self, options: EngineOptions) -> None:
        refuse_given(options, _LEARNING)
        self._matrices: dict[str, Tensor] = {}
        """By place. Not kept with a run: its key draws the same again."""

    def weight(self, place: Place, weight: Tensor) -> Tensor:
        if place.name not in self._matrices:
            drawn = place.normal(tuple(weight.shape), weight)
            self._matrices[place.name] = drawn / math.sqrt(3 * weight[0].numel())
        return self._matrices[place.name].to(weight)


class SignSymmetry(FeedbackRule):
    """sign(W) times the root mean square of W."""

    layers = None

    def __init__(self, options: EngineOptions) -> None:
        refuse_given(options, _LEARNING)

    def weight(self, place: Place, weight: Tensor) -> Tensor:
        return weight.sign() * weight.square().mean().sqrt()


class DirectFeedbackAlignment(DirectFeedback):
    """A fixed random matrix at every layer, the last one too."""

    exact_last = False
    no_use = _LEARNING

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self.learning = "fixed"


class ForwardDirectFeedbackAlignment(DirectFeedback):
    """B starts at 0 and follows the mean Jacobian at the rate β = `feedback_rate`, constant, without innovation."""

    exact_last = False
    no_use = ("feedback_learning",)

    def learn_from_noise(self, noise: Mapping[str, Tensor], carried: Tensor, samples: int) -> Mapping[str, Tensor]:
        means = {}
        for name, y in noise.items():
            self._matrix(name, y.shape[1], carried)
            moved = carried if len(carried) == len(y) else carried.unflatten(0, (len(y), -1)).mean(1)
            means[name] = wide(y).T @ moved / len(y)
        return means

    def update(self, means: Mapping[str, Tensor], samples: int, step: int) -> None:
        for name, mean in means.items():
            self.matrices[name] = torch.lerp(self.matrices[name].to(mean), mean, self.rate)
