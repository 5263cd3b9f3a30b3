"""What a rule of feedback is (fgcli.gradient.feedback): what it predicts, what it learns from, what it keeps."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from fgcli.gradient.randomness import StepRng


@dataclass(frozen=True)
class Place:
    """Where a rule predicts: the input of a layer."""

    name: str
    """Of the layer's site."""
    dim: int
    """d, the length of a row of x_k."""
    outputs: int
    """C, the length of a row of e."""
    rng: StepRng

    def normal(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Random numbers of a run, the same at every step.

        Args:
            shape: of the numbers.
            like: a tensor of their dtype and device.

        Returns:
            N(0, 1) of that shape.
        """
        return self.rng.streams.at(0).normal("fixed-feedback", self.name, shape, like)


class FeedbackRule:
    """A rule of feedback: what it predicts, what it learns from, what it keeps.

    Rows are samples, or tokens where the model's output is a sequence of them.
    """

    layers: int | None = 0
    """Layers whose transposed weights a prediction passes through, beside the pieces. None: all, one after another from
    the output back, so that nothing is predicted but by `weight`."""
    exact_last: bool = True
    """Whether ∂L/∂x_k is exact where only the output is reached from layer k: e through the layer's own weight. Else
    the rule predicts there too. Without meaning where `layers` is None."""

    def weight(self, place: Place, weight: Tensor) -> Tensor:
        """What stands in for W_k where `layers` is None.

        Args:
            place: the input of layer k.
            weight: W_k as the layer uses it, without a graph.

        Returns:
            A tensor of its shape; W_k itself would make it backpropagation.
        """
        return weight

    def predict(self, place: Place, e: Tensor) -> Tensor:
        """What ∂L/∂x_k is taken for. Not asked where `layers` is None.

        Args:
            place: the input of a layer.
            e: the loss's derivative at the output, of the mean loss [rows, C].

        Returns:
            [rows, d].
        """
        raise NotImplementedError(f"{type(self).__name__} predicts nothing: it has neither `predict` nor layers = None")

    def needs_noise(self, step: int) -> bool:
        """Whether noise is carried from all places to the output, in a forward pass with tangents.

        Args:
            step: number of the parameter update.

        Returns:
            False, unless a rule says otherwise.
        """
        return False

    def needs_layers(self, step: int) -> bool:
        """Whether the rule is shown the pull-backs through the layers.

        Args:
            step: number of the parameter update.

        Returns:
            False, unless a rule says otherwise.
        """
        return False

    def learn_from_noise(self, noise: Mapping[str, Tensor], carried: Tensor, samples: int) -> Mapping[str, Tensor]:
        """What noise at the places tells.

        Args:
            noise: y_k of random signs [rows, d] by place.
            carried: Σ_k J_k y_k, the output's tangent [rows, C].
            samples: the number that the batch is taken as, or a part of it.

        Returns:
            Means over the samples, by names of the rule's own.
        """
        return {}

    def learn_from_layer(self, place: Place, e: Tensor, gradient: Tensor) -> Mapping[str, Tensor]:
        """What the layer behind a place tells.

        Args:
            place: the input of a layer.
            e: [rows, C].
            gradient: W_kᵀ b_k [rows, d].

        Returns:
            Means over the rows, by names of the rule's own.
        """
        return {}

    def update(self, means: Mapping[str, Tensor], samples: int, step: int) -> None:
        """Learn, once a step, after all predictions.

        Args:
            means: over the batch, of what was learned from its parts.
            samples: of the batch.
            step: number of the parameter update.
        """
        return

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs.

        Returns:
            Tensors by names of the rule's own.
        """
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there.

        Args:
            state: as `state` gave it.
        """
        return
