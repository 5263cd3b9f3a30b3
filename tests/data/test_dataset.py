from dataclasses import replace

import pytest
import torch

from fgcli.data.dataset import Dataset, check
from fgcli.errors import UsageError

GOOD = Dataset(
    name="toy",
    train_inputs=torch.zeros(6, 2, 3),
    train_targets=torch.tensor([0, 1, 2, 0, 1, 2]),
    test_inputs=torch.zeros(3, 2, 3),
    test_targets=torch.tensor([2, 1, 0]),
    classes=3,
)


def with_entry(tensor, index, value):
    changed = tensor.clone()
    changed[index] = value
    return changed


def test_a_good_dataset_passes():
    check(GOOD)
    assert GOOD.input_shape == (2, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_the_first_input_that_is_not_finite_is_named(value):
    inputs = with_entry(with_entry(GOOD.train_inputs, (5, 0, 0), value), (4, 1, 2), value)
    with pytest.raises(UsageError, match=f"'toy', train split: input 4 contains {value}; .*finite"):
        check(replace(GOOD, train_inputs=inputs))


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_the_first_label_outside_the_classes_is_named(label):
    targets = with_entry(with_entry(GOOD.test_targets, 2, label), 1, label)
    with pytest.raises(UsageError, match=f"'toy', test split: label {label} at index 1; .* from 0 to 2"):
        check(replace(GOOD, test_targets=targets))


@pytest.mark.parametrize("label", [0.5, float("nan")])
def test_the_first_fractional_label_is_named(label):
    targets = with_entry(GOOD.train_targets.double(), 3, label)
    with pytest.raises(UsageError, match=f"train split: label {label:g} at index 3; .*integers"):
        check(replace(GOOD, train_targets=targets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.uint8, torch.bool])
def test_labels_of_another_type_are_refused_with_the_mend(dtype):
    with pytest.raises(UsageError, match=rf"labels are {dtype}; .*int64: convert with \.long\(\)"):
        check(replace(GOOD, train_targets=GOOD.train_targets.to(dtype)))


def test_inputs_that_are_not_floating_point_are_refused():
    with pytest.raises(UsageError, match=r"inputs are torch\.int64; .*\.float\(\)"):
        check(replace(GOOD, train_inputs=GOOD.train_inputs.long()))


def test_an_empty_split_is_refused():
    empty = replace(GOOD, test_inputs=torch.zeros(0, 2, 3), test_targets=torch.zeros(0, dtype=torch.int64))
    with pytest.raises(UsageError, match="'toy', test split: it is empty"):
        check(empty)


def test_lengths_that_differ_are_refused():
    with pytest.raises(UsageError, match="train split: 6 inputs and 5 targets"):
        check(replace(GOOD, train_targets=GOOD.train_targets[:5]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_inputs": torch.zeros(6)}, r"inputs have shape \[6\]"),
        ({"train_inputs": torch.zeros(6, 0)}, r"an input has shape \[0\]"),
        ({"train_targets": torch.zeros(6, 1, dtype=torch.int64)}, r"targets have shape \[6, 1\]"),
        ({"test_inputs": torch.zeros(3, 6)}, r"train input has shape \[2, 3\], a test input \[6\]"),
        ({"classes": 0}, "classes is 0"),
        ({"classes": "ten"}, "classes is 'ten'; it must be a number"),
        ({"train_inputs": [[1.0]] * 6}, "inputs are a list; they must be a tensor"),
        ({"test_targets": None}, "targets are a NoneType; they must be a tensor"),
    ],
)
def test_shapes_that_cannot_be_trained_on_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        check(replace(GOOD, **change))
