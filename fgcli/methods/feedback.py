"""Feedback by a matrix A_k [d, C] for the input of each layer, that follows its mean Jacobian: A_k e is the prediction.

direct      by A_k e alone.
local       by W_kᵀ b_k, b_k the direct prediction behind layer k: one layer more is exact.

A learns from tangents, normally: noise y_k at the inputs of the layers, carried to the output in one forward pass.
With r = Jy - Σ_j A_jᵀ y_j, what A does not explain yet, A_k ← A_k + η_t mean(y_k rᵀ) / (1 + D / batch): normalised
least mean squares in innovation form, D all learned dimensions together. Or from the local prediction itself, without
tangents (`bootstrap`, as synthetic gradients: Jaderberg et al. 2017), a share η_t of the way to its least-squares
regression on e, less where the batch has less of e than is usual. Or not at all: fixed random matrices are direct
feedback alignment's (Nøkland 2016); A = 0 leaves the exact paths.

Source: forward gradients for direct feedback alignment (Bacho and Chu 2024: at the layers' outputs, without slopes and
innovation).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fgcli.extend.options import EngineOptions
from fgcli.gradient.errors import OptionRefused
from fgcli.gradient.feedback import WARM_UP, FeedbackRule, Place
from fgcli.gradient.precision import wide

TIME = 30
"""Steps after which the rate has fallen to half."""
RIDGE = 1e-3
"""Of `bootstrap`'s regression, in mean squares of e."""
LARGEST = 2**28
"""Entries of all A together, a GiB in float32, above which they are refused."""


class DirectFeedback(FeedbackRule):
    """A_k e.

    Args:
        options: `feedback_learning`: what A learns from; `feedback_rate`: η, that its rate falls to from 1;
            `feedback_every`: steps between two passes with tangents, after the first ones.
    """

    no_use: tuple[str, ...] = ()
    """Options of feedback that this rule does nothing with."""

    def __init__(self, options: EngineOptions) -> None:
        refuse_given(options, self.no_use)
        self.learning, self.rate, self.every = (
            options.feedback_learning,
            options.feedback_rate,
            options.feedback_every,
        )
        self.matrices: dict[str, Tensor] = {}
        """A by place."""
        self._usual: dict[str, Tensor] = {}
        """Of `bootstrap`, by place: a running mean of e's second moments [C, C], each batch's of mean diagonal 1."""

    def needs_noise(self, step: int) -> bool:
        return self.learning == "tangents" and (step < WARM_UP or step % self.every == 0)

    def needs_layers(self, step: int) -> bool:
        return self.learning == "bootstrap"

    def predict(self, place: Place, e: Tensor) -> Tensor:
        if self.learning == "fixed" and place.name not in self.matrices:
            shape = (place.dim, place.outputs)
            self._refuse_too_large(place.name, *shape)
            self.matrices[place.name] = place.normal(shape, e) / math.sqrt(place.dim)
        if self.learning == "none" and place.name not in self.matrices:
            return e.new_zeros(len(e), place.dim)
        return e @ self._matrix(place.name, place.dim, e).T

    def _matrix(self, name: str, dim: int, e: Tensor) -> Tensor:
        if name not in self.matrices:
            self._refuse_too_large(name, dim, e.shape[1])
            self.matrices[name] = e.new_zeros(dim, e.shape[1])
        return self.matrices[name].to(e)

    def _refuse_too_large(self, name: str, d: int, c: int) -> None:
        entries = d * c + sum(one.numel() for one in self.matrices.values())
        if entries > LARGEST:
            raise OptionRefused(
                f"feedback at site '{name}' takes a matrix of {d:,} × {c:,} (input of the layer × outputs of the "
                f"network), {entries:,} numbers with those before it; at most {LARGEST:,}: use feedback_learning none, "
                "whose matrix is 0, or feedback none"
            )

    def learn_from_noise(self, noise: Mapping[str, Tensor], carried: Tensor, samples: int) -> Mapping[str, Tensor]:
        rest, dimensions = carried, 0.0
        for name, y in noise.items():
            explained = (self._matrix(name, y.shape[1], carried).T @ wide(y).T).T
            tokens = len(carried) // len(y)
            rest = rest - (explained if tokens == 1 else explained.repeat_interleave(tokens, 0))
            dimensions += y.shape[1] * samples / len(y)
        means = {}
        for name, y in noise.items():
            r = rest if len(rest) == len(y) else rest.unflatten(0, (len(y), -1)).mean(1)
            means[name] = _product(wide(y), r) / len(y)
        return means | {"dimensions": torch.tensor(dimensions, dtype=torch.double)}

    def learn_from_layer(self, place: Place, e: Tensor, gradient: Tensor) -> Mapping[str, Tensor]:
        return {f"e/{place.name}": e.T @ e / len(e), place.name: _product(wide(gradient), e) / len(e)}

    def update(self, means: Mapping[str, Tensor], samples: int, step: int) -> None:
        rate = max(1 / (1 + step / TIME), self.rate)
        dimensions = float(means.get("dimensions", 0.0))
        for name, mean in means.items():
            if name not in self.matrices:
                continue
            matrix = self.matrices[name] = self.matrices[name].to(mean)
            if self.learning == "bootstrap":
                # Where a batch has less of e than is usual, a few samples tell little: A would fit them alone.
                gram = means[f"e/{name}"]
                least = torch.finfo(gram.dtype).tiny / torch.finfo(gram.dtype).eps  # where e vanishes, A stays
                size = gram.diagonal().mean().clamp_min(least)
                now, unit = gram / size, torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
                usual = self._usual[name] = torch.lerp(self._usual.get(name, now).to(now), now, rate)
                # Its transpose, as a solve from the left.
                missed = (mean - matrix @ gram).T / size
                change = torch.linalg.solve((now + usual) / 2 + RIDGE * unit, missed).T
                matrix.add_(change, alpha=rate)
            else:
                matrix.add_(mean, alpha=rate / (1 + dimensions / samples))

    def state(self) -> dict[str, Tensor]:
        usual = {f"e/{name}": one for name, one in self._usual.items()}
        return {name: one.clone() for name, one in (self.matrices | usual).items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.matrices = {name: one.clone() for name, one in state.items() if not name.startswith("e/")}
        self._usual = {name[2:]: one.clone() for name, one in state.items() if name.startswith("e/")}


class LocalFeedback(DirectFeedback):
    """W_kᵀ b_k, b_k of A e behind layer k; or the same once more, `feedback_layers` times in all."""

    def __init__(self, options: EngineOptions) -> None:
        super().__init__(options)
        self.layers = options.feedback_layers


def refuse_given(options: EngineOptions, names: tuple[str, ...]) -> None:
    """OptionRefused where one of these, which the rule does nothing with, has another value than its default."""
    for name in names:
        value = getattr(options, name)
        if value != EngineOptions.model_fields[name].default:
            raise OptionRefused(
                f"{name} is {value}; feedback {options.feedback} does nothing with it: leave it out, or use feedback "
                "direct or local"
            )


def _product(y: Tensor, r: Tensor) -> Tensor:
    """yᵀ r of [rows, d] and [rows, few]: by its transpose, in a fifth of the time on a CPU."""
    return (r.T @ y).T
