import numpy
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits

from fgcli.data.dataset import check
from fgcli.data.digits import digits
from fgcli.data.options import SplitOptions


@pytest.fixture(scope="module")
def dataset():
    return digits(SplitOptions())


def test_shapes_and_types(dataset):
    check(dataset)
    assert dataset.train_inputs.shape == (1437, 1, 8, 8)
    assert dataset.test_inputs.shape == (360, 1, 8, 8)
    assert dataset.train_inputs.dtype == torch.float32
    assert dataset.classes == 10


def test_training_pixels_are_standardised(dataset):
    pixels = dataset.train_inputs.double()
    assert abs(pixels.mean()) < 1e-6
    assert abs(pixels.std(correction=0) - 1) < 1e-6


def test_the_two_splits_are_the_original_images_with_their_labels(dataset):
    images, labels = load_digits(return_X_y=True)
    inputs = torch.cat([dataset.train_inputs, dataset.test_inputs]).flatten(1).double()
    lowest, highest = inputs.min(), inputs.max()
    pixels = ((inputs - lowest) / (highest - lowest) * 16).round().long().tolist()
    targets = torch.cat([dataset.train_targets, dataset.test_targets]).tolist()
    found = sorted(zip(pixels, targets, strict=True))
    assert found == sorted(zip(images.astype(int).tolist(), labels.tolist(), strict=True))


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.99])
def test_the_split_is_stratified(fraction):
    split = digits(SplitOptions(test_fraction=fraction))
    check(split)
    _, labels = load_digits(return_X_y=True)
    expected = numpy.bincount(labels) * fraction
    found = torch.bincount(split.test_targets, minlength=10).numpy()
    assert numpy.abs(found - expected).max() <= 1


def test_the_seed_alone_decides_the_split(dataset):
    numpy.random.seed(1)
    again = digits(SplitOptions())
    assert torch.equal(again.train_inputs, dataset.train_inputs)
    assert torch.equal(again.test_targets, dataset.test_targets)
    assert not torch.equal(digits(SplitOptions(seed=1)).test_inputs, dataset.test_inputs)


@pytest.mark.parametrize("given", [{"test_fraction": 0}, {"test_fraction": 1}, {"seed": -1}, {"seed": 2**32}])
def test_options_out_of_bounds_are_refused(given):
    with pytest.raises(ValidationError, match=r"greater than or equal to|less than"):
        SplitOptions(**given)
