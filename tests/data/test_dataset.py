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


def with_numbers(targets, classes, tests=None):
    return replace(GOOD, train_targets=targets, test_targets=targets[:3] if tests is None else tests, classes=classes)


@pytest.mark.parametrize(("shape", "classes"), [((6,), 1), ((6, 1), 1), ((6, 2), 2)])
def test_targets_may_be_numbers(shape, classes):
    check(with_numbers(torch.full(shape, 0.5), classes))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            with_numbers(torch.zeros(6), 3),
            r"1 in each, and classes is 3; it must be 1, .*labels: convert with \.long\(\)",
        ),
        (with_numbers(torch.zeros(6, 2), 1), "2 in each, and classes is 1; it must be 2"),
        (with_numbers(torch.zeros(6, 2, 1), 2), r"targets have shape \[6, 2, 1\]; .* floating point \[n, d\]"),
        (with_numbers(torch.zeros(6).double(), 1), r"targets are torch.float64, inputs torch.float32; .* one type"),
        (
            with_numbers(with_entry(torch.zeros(6, 2), (4, 1), torch.nan), 2, torch.zeros(3, 2)),
            "target 4 is not finite",
        ),
        (
            with_numbers(torch.zeros(6), 1, torch.zeros(3).long()),
            "train targets are torch.float32, test targets torch.int64",
        ),
    ],
)
def test_numbers_that_cannot_be_trained_on_are_refused(data, said):
    with pytest.raises(UsageError, match=said):
        check(data)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool])
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
