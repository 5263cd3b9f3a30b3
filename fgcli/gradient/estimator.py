"""Contract 2, the outer half: what every estimator takes and gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fgcli.gradient.nested import batch_size, first_tensor, mapped
from fgcli.gradient.randomness import StepRng

if TYPE_CHECKING:
    from fgcli.gradient.processes import Processes

Loss = Callable[[Any, Any], Tensor]
"""(the model's outputs, targets) -> the mean loss, or a loss a sample [batch], whose mean it is then."""


@dataclass(frozen=True)
class Batch:
    """inputs: a tensor [batch, ...], or a tuple or mapping of such; targets: what the loss is given."""

    inputs: Any
    targets: Any

    @property
    def size(self) -> int:
        """The number of samples."""
        return batch_size(self.inputs)

    @property
    def device(self) -> torch.device:
        """Where the inputs are."""
        return first_tensor(self.inputs).device

    def rows(self, rows: slice) -> "Batch":
        """Some of the samples.

        Args:
            rows: which ones.

        Returns:
            The batch of these samples.
        """
        size = self.size

        def taken(value: Any) -> Any:
            return value[rows] if isinstance(value, Tensor) and value.dim() and len(value) == size else value

        return Batch(mapped(taken, self.inputs), mapped(taken, self.targets))


@dataclass(frozen=True)
class Coverage:
    """How an estimator trains a model's parameters. Without sites it has a way of its own for all but the frozen."""

    sites: tuple[str, ...]
    """Uses of weights, by name, whose outputs are perturbed and whose parameters' gradients follow from that."""
    perturbed: tuple[str, ...] = ()
    """Parameters, by name, that no site covers, trained by weight perturbation in the same pass; those of sites that
    are used elementwise as well, with that part of their gradient."""
    frozen: tuple[str, ...] = ()
    """Parameters that no site covers, left as they are."""
    unused: tuple[str, ...] = ()
    """Parameters that the forward does not use."""
    notes: tuple[str, ...] = ()
    """What a user should know: a sentence each."""

    def lines(self) -> list[str]:
        """The same in words.

        Returns:
            What is done with each parameter, and the notes, a line each.
        """
        named = {
            "trained by weight perturbation, as no site covers them": self.perturbed,
            "left as they are, as no site covers them": self.frozen,
            "not used by the forward": self.unused,
        }
        said = [f"{len(self.sites)} sites: {_few(self.sites)}"]
        said += [f"{len(names)} parameters {what}: {_few(names)}" for what, names in named.items() if names]
        return [*said, *self.notes]


def _few(names: tuple[str, ...], most: int = 6) -> str:
    shown = ", ".join(names[:most])
    return f"{shown}, …" if len(names) > most else shown


@dataclass(frozen=True)
class Estimate:
    """What one batch tells about the gradient of the mean loss."""

    losses: Tensor
    """[batch], or the mean loss alone where the loss gives no more, without axes; detached. Of several processes, each
    has those of its own rows, and so it is with δ."""
    gradients: dict[str, Tensor]
    """By parameter name, of the mean over the batch. A frozen parameter is absent."""
    directional_derivative: Tensor | None = None
    """δ [batch], per sample, of its share of the mean loss, along the guess; [batch, K] along K of them, and 1 for the
    batch where samples are not told apart. None for backpropagation."""


class Estimator(Protocol):
    """Full control over how a gradient is had. Constructed with the method's options.

    `bind` is called once with the model and an example batch of inputs, before anything else. One that has an attribute
    `needs_derivative` = False is given losses that have none, too.
    """

    def bind(self, model: nn.Module, example: Any) -> Coverage:
        """Look the model over. Called once, before anything else.

        Args:
            model: the model.
            example: inputs of a batch, as `Batch.inputs` has them.

        Returns:
            How each parameter is trained.

        Raises:
            ModelRefused: names the site and what to use instead, where the model cannot be trained this way.
        """
        ...

    def estimate(self, model: nn.Module, loss: Loss, batch: Batch, rng: StepRng) -> Estimate:
        """Losses and gradient estimate of one batch.

        Args:
            model: the model that the estimator was bound to.
            loss: gives the mean loss of outputs and targets, or a loss a sample.
            batch: inputs and targets.
            rng: the only source of random numbers. `rng.step` counts the parameter updates: estimates at one step are
                taken at the same parameters, and share what a method prepares once per update.

        Returns:
            Detached losses, and a gradient of the mean loss for every parameter that is not frozen.
        """
        ...

    def state(self) -> dict[str, Tensor]:
        """What a resumed run needs beside the parameters: warm starts.

        Returns:
            Tensors by name, which are written into checkpoints.
        """
        ...

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up the state of another instance, after `bind`.

        Args:
            state: what its `state` gave.
        """
        ...


class Stateless:
    """An estimator that keeps nothing from one step to the next."""

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        pass


@runtime_checkable
class FindsFaults(Protocol):
    """An estimator that can say where an estimate that is not finite came from. Not asked unless there is one."""

    def find_fault(self, model: nn.Module, batch: Batch, rng: StepRng) -> str | None:
        """Look for the fault in an estimate that was not finite.

        Args:
            model: the model.
            batch: the batch of that estimate.
            rng: the streams of that estimate.

        Returns:
            One clause that names the site and the fault, or None.
        """
        ...


@runtime_checkable
class Splits(Protocol):
    """An estimator whose batches several processes may estimate together, each of which is given the whole batch."""

    def split_over(self, processes: "Processes") -> None:
        """Take one's own rows from now on, and add up over the processes. Called before `bind`.

        Args:
            processes: which take their rows, draw the noise of them, and add up.

        Raises:
            OptionRefused: for options that cannot be split.
        """
        ...


@runtime_checkable
class SettlesOptions(Protocol):
    """A guess method or estimator whose options leave something to the machine or to a file, which may change."""

    def settled_options(self) -> dict[str, Any]:
        """Values for such options that stand for what this instance has, on every machine.

        Returns:
            By the option's name. A run's recipe is written with them, so that it runs again to the same numbers.
        """
        ...
