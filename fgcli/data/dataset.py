"""What a data set is, and the check every data set passes before a run, a plugin's too."""

from dataclasses import dataclass, field
from typing import NoReturn

import torch
from torch import Tensor, nn

from fgcli.errors import UsageError


class Standardise(nn.Module):
    """From inputs as the data have them to those of a network, float32: (x - mean) / deviation.

    Args:
        mean: one number for all, or a tensor that broadcasts over a sample. By default inputs stay as they are.
        deviation: of the same shape.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, mean: Tensor | float = 0.0, deviation: Tensor | float = 1.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.as_tensor(mean, dtype=torch.float32))
        self.register_buffer("deviation", torch.as_tensor(deviation, dtype=torch.float32))

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs [batch, ...features] of any number type, standardised.

        Args:
            inputs: as the data have them.

        Returns:
            float32, of the same shape.
        """
        return (inputs.to(self.mean.dtype) - self.mean) / self.deviation

    def undo(self, inputs: Tensor) -> Tensor:
        """From standardised inputs back to those that the data have.

        Args:
            inputs: standardised.

        Returns:
            float32, of the same shape.
        """
        return inputs * self.deviation + self.mean

    def extra_repr(self) -> str:
        """What is done, as `print` of the module has it.

        Returns:
            Words, after "inputs".
        """
        if self.mean.numel() > 1:
            kind = "channels" if self.mean.dim() > 1 and self.mean.shape[-1] == 1 else "features"
            return f"standardised, each of the {self.mean.numel()} {kind} by its own mean and deviation"
        if (self.mean.item(), self.deviation.item()) == (0, 1):
            return "as they are"
        mean = self.mean.item()
        return f"as (x {'+' if mean < 0 else '-'} {abs(mean):.4g}) / {self.deviation.item():.4g}"


class Tokens(Standardise):
    """In place of `Standardise` where inputs are tokens: int64 `[n, length]`, -1 behind the end of a text."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens [batch, length] of any number type, as int64.

        Args:
            inputs: whole numbers.

        Returns:
            int64, of the same shape.
        """
        return inputs.long()

    def undo(self, inputs: Tensor) -> Tensor:
        """Nothing was done.

        Args:
            inputs: tokens.

        Returns:
            The same.
        """
        return inputs

    def extra_repr(self) -> str:
        """What inputs are.

        Returns:
            Words.
        """
        return "are tokens"


@dataclass(frozen=True, eq=False)
class Dataset:
    """A classification or regression task, whole in memory, on the CPU.

    Inputs are floating point, `[n, ...features]`; or tokens, int64 `[n, length]`, where `preprocessing` is `Tokens`.
    Targets are classes: int64, `[n]`, from 0 to `classes - 1`; or numbers: float32 or of the inputs' type, `[n]` or
    `[n, d]`, where `classes` is 1 or d, how many outputs a model has. Of tokens they may be a class for each: int64,
    `[n, length]`, for models that give `[n, length, classes]`.
    `preprocessing` says how the inputs were standardised, so that a trained network can be given others, and
    `input_names` which column of a table each number of a sample is.
    """

    name: str
    train_inputs: Tensor
    train_targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int
    preprocessing: Standardise = field(default_factory=Standardise)
    class_names: tuple[str, ...] = ()
    input_names: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train_inputs.shape[1:])

    @property
    def summary(self) -> str:
        """A line on what it holds, and what its inputs went through."""
        train, test = len(self.train_inputs), len(self.test_inputs)
        if self.train_targets.is_floating_point():
            targets = f"{self.classes} {'number' if self.classes == 1 else 'numbers'} a target"
        elif self.train_targets.dim() == 2:
            targets = f"one of {self.classes} classes for each token"
        else:
            named = self.class_names if len(self.class_names) <= 10 else (*self.class_names[:9], "…")
            targets = f"{self.classes} classes" + (f" ({', '.join(named)})" if named else "")
        sizes = f"{train} training and {test} test samples of {list(self.input_shape)}"
        return f"{self.name}: {sizes}, {targets}; inputs {self.preprocessing.extra_repr()}"


def check(dataset: Dataset) -> None:
    """Raise UsageError, naming data set, split and first offending index, unless a run can train on it."""
    if not isinstance(dataset.classes, int) or dataset.classes < 1:
        raise UsageError(f"dataset {dataset.name!r}: classes is {dataset.classes!r}; it must be a number, at least 1")
    _Split(dataset, "train", dataset.train_inputs, dataset.train_targets).check()
    _Split(dataset, "test", dataset.test_inputs, dataset.test_targets).check()
    train, test = tuple(dataset.train_inputs.shape[1:]), tuple(dataset.test_inputs.shape[1:])
    if train != test:
        raise UsageError(
            f"dataset {dataset.name!r}: a train input has shape {list(train)}, a test input {list(test)}; "
            "they must be the same"
        )
    kinds = dataset.train_targets.dtype, dataset.test_targets.dtype
    if kinds[0] != kinds[1]:
        raise UsageError(f"dataset {dataset.name!r}: train targets are {kinds[0]}, test targets {kinds[1]}")


@dataclass(frozen=True, eq=False)
class _Split:
    dataset: Dataset
    name: str
    inputs: Tensor
    targets: Tensor

    def check(self) -> None:
        self._check_sizes()
        self._check_inputs()
        if self.targets.is_floating_point():
            self._check_numbers()
        else:
            self._check_labels()

    @property
    def _has_tokens(self) -> bool:
        return isinstance(self.dataset.preprocessing, Tokens)

    def _refuse(self, what: str) -> NoReturn:
        raise UsageError(f"dataset {self.dataset.name!r}, {self.name} split: {what}")

    def _check_sizes(self) -> None:
        for what, given in (("inputs", self.inputs), ("targets", self.targets)):
            if not isinstance(given, Tensor):
                self._refuse(f"{what} are a {type(given).__name__}; they must be a tensor")
        if self.inputs.dim() < 2:
            self._refuse(f"inputs have shape {list(self.inputs.shape)}; they must be [n, ...features]")
        whole = self._has_tokens and self.targets.shape == self.inputs.shape
        if self.targets.dim() != 1 and not whole and not (self.targets.is_floating_point() and self.targets.dim() == 2):
            allowed = "[n], or of floating point [n, d]"
            self._refuse(f"targets have shape {list(self.targets.shape)}; they must be {allowed}")
        if len(self.inputs) != len(self.targets):
            self._refuse(
                f"{len(self.inputs)} inputs and {len(self.targets)} targets; there must be one target an input"
            )
        if len(self.inputs) == 0:
            self._refuse("it is empty; it must hold at least 1 sample")
        if self.inputs[0].numel() == 0:
            self._refuse(f"an input has shape {list(self.inputs.shape[1:])}; it must hold at least 1 number")

    def _check_inputs(self) -> None:
        if self._has_tokens:
            if self.inputs.dtype != torch.int64 or self.inputs.dim() != 2:
                found = f"{self.inputs.dtype} {list(self.inputs.shape)}"
                self._refuse(f"inputs are {found}; tokens must be torch.int64 [n, length]")
            if (bad := (self.inputs < -1).any(dim=1)).any():
                self._refuse(f"input {_first(bad)} holds {self.inputs[bad].min()}; tokens are 0 or more, -1 at the end")
            return
        if not self.inputs.is_floating_point():
            self._refuse(f"inputs are {self.inputs.dtype}; they must be floating point: convert with .float()")
        values = self.inputs.flatten(1)
        bad = (~values.isfinite()).any(dim=1)
        if bad.any():
            index = _first(bad)
            value = values[index][~values[index].isfinite()][0].item()
            self._refuse(f"input {index} contains {value}; inputs must be finite")

    def _check_labels(self) -> None:
        targets, classes = self.targets, self.dataset.classes
        if targets.dtype != torch.int64:
            self._refuse(f"labels are {targets.dtype}; they must be torch.int64: convert with .long()")
        outside = (targets < 0) | (targets >= classes)
        if outside.any():
            index = tuple(outside.nonzero()[0].tolist())
            place = index[0] if len(index) == 1 else list(index)
            allowed = f"labels must be integers from 0 to {classes - 1}"
            self._refuse(f"label {targets[index].item()} at index {place}; {allowed}")

    def _check_numbers(self) -> None:
        targets, classes = self.targets, self.dataset.classes
        size = targets[0].numel()
        if classes != size:
            self._refuse(
                f"targets are numbers, {size} in each, and classes is {classes}; it must be {size}, or targets labels: "
                "convert with .long()"
            )
        if targets.dtype != (torch.float32 if self._has_tokens else self.inputs.dtype):
            self._refuse(f"targets are {targets.dtype}, inputs {self.inputs.dtype}; they must be of one type")
        bad = (~targets.reshape(len(targets), -1).isfinite()).any(dim=1)
        if bad.any():
            self._refuse(f"target {_first(bad)} is not finite; targets must be")


def _first(mask: Tensor) -> int:
    return int(mask.nonzero()[0, 0])
