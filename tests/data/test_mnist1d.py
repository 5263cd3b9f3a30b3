import logging
import random
import sys

import numpy
import pytest
import torch
from pydantic import ValidationError

from fgcli.data import mnist1d as module
from fgcli.data.dataset import check
from fgcli.data.mnist1d import cache_path, mnist1d
from fgcli.data.options import Mnist1dOptions

SMALL = Mnist1dOptions(num_samples=50)


def tensors(dataset):
    return [dataset.train_inputs, dataset.train_targets, dataset.test_inputs, dataset.test_targets]


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(tensors(first), tensors(second), strict=True))


def warnings_in(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.fixture
def no_generator(monkeypatch):
    """Any import of mnist1d.data fails."""
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)


def test_the_default_is_the_papers_data_set(caplog):
    dataset = mnist1d(Mnist1dOptions())
    check(dataset)
    assert dataset.train_inputs.shape == (4000, 40)
    assert dataset.test_inputs.shape == (1000, 40)
    assert dataset.train_inputs.dtype == dataset.test_inputs.dtype == torch.float32
    assert dataset.classes == 10
    inputs = torch.cat([dataset.train_inputs, dataset.test_inputs]).double()
    assert abs(inputs.mean()) < 1e-6
    assert abs(inputs.std(correction=0) - 1) < 1e-6
    counts = torch.bincount(torch.cat([dataset.train_targets, dataset.test_targets]))
    assert counts.tolist() == [500] * 10
    assert not warnings_in(caplog)  # the pinned fingerprint holds


def test_the_defaults_are_mnist1ds_own():
    from mnist1d.data import get_dataset_args

    theirs = vars(get_dataset_args())
    del theirs["url"]
    assert Mnist1dOptions().model_dump() == theirs | {"padding": tuple(theirs["padding"])}


def test_data_are_exactly_make_datasets():
    from mnist1d.data import get_dataset_args, make_dataset

    args = get_dataset_args()
    args.num_samples = 50  # pyright: ignore
    state = numpy.random.get_state()
    raw = make_dataset(args)
    numpy.random.set_state(state)
    dataset = mnist1d(SMALL)
    for name, tensor in zip(["x", "y", "x_test", "y_test"], tensors(dataset), strict=True):
        assert torch.equal(tensor, torch.tensor(raw[name]).to(tensor.dtype)), name


CHANGES = {
    "num_samples": 60,
    "train_split": 0.5,
    "template_len": 20,
    "padding": (10, 60),
    "scale_coeff": 0.1,
    "max_translation": 10,
    "corr_noise_scale": 0.5,
    "iid_noise_scale": 0.5,
    "shear_scale": 0.1,
    "shuffle_seq": True,
    "final_seq_length": 20,
    "seed": 43,
}


@pytest.mark.parametrize("name", Mnist1dOptions.model_fields)
def test_every_option_changes_the_data(name):
    changed = SMALL.model_copy(update={name: CHANGES[name]})
    assert not same(mnist1d(SMALL), mnist1d(changed))
    assert same(mnist1d(changed), mnist1d(changed))


def test_global_random_state_is_neither_read_nor_disturbed(cache_folder):
    results = []
    for seed in (1, 2):
        random.seed(seed)
        numpy.random.seed(seed)
        expected = (random.Random(seed).random(), numpy.random.RandomState(seed).rand())
        results.append(mnist1d(SMALL))
        assert (random.random(), numpy.random.rand()) == expected
        cache_path(SMALL).unlink()
    assert same(*results)


def test_global_random_state_survives_a_failure(monkeypatch):
    def fail(_):
        numpy.random.seed(0)
        random.seed(0)
        raise RuntimeError("no data today")

    monkeypatch.setattr("mnist1d.data.make_dataset", fail)
    random.seed(1)
    numpy.random.seed(1)
    with pytest.raises(RuntimeError, match="no data today"):
        mnist1d(SMALL)
    assert random.random() == random.Random(1).random()
    assert numpy.random.rand() == numpy.random.RandomState(1).rand()


def test_the_second_time_comes_from_the_cache(request):
    first = mnist1d(SMALL)
    request.getfixturevalue("no_generator")
    assert same(first, mnist1d(SMALL))


@pytest.mark.usefixtures("no_generator")
def test_without_a_cache_the_generator_is_needed():
    with pytest.raises(ImportError, match=r"mnist1d\.data"):
        mnist1d(SMALL)


def test_options_and_versions_have_caches_of_their_own(monkeypatch):
    paths = {cache_path(SMALL), cache_path(Mnist1dOptions()), cache_path(SMALL.model_copy(update={"seed": 1}))}
    monkeypatch.setattr(module, "version", lambda _: "99")
    paths.add(cache_path(SMALL))
    assert len(paths) == 4


def test_a_damaged_cache_is_generated_anew_with_one_warning(caplog):
    first = mnist1d(SMALL)
    path = cache_path(SMALL)
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    assert same(first, mnist1d(SMALL))
    [warning] = warnings_in(caplog)
    assert str(path) in warning
    assert "\n" not in warning
    caplog.clear()
    assert same(first, mnist1d(SMALL))  # the good data were written back
    assert not warnings_in(caplog)


def test_a_folder_that_cannot_be_written_just_means_generating(cache_folder, caplog):
    first = mnist1d(SMALL)
    cache_path(SMALL).unlink()
    cache_folder.rmdir()
    cache_folder.write_text("a file where the folder should be")  # stops root too, unlike permissions
    assert same(first, mnist1d(SMALL))
    assert not warnings_in(caplog)


def test_a_cache_path_that_is_a_folder_just_means_generating(caplog):
    cache_path(SMALL).mkdir(parents=True)
    check(mnist1d(SMALL))
    assert not warnings_in(caplog)


def test_other_default_data_are_reported_with_the_versions(monkeypatch, caplog):
    monkeypatch.setattr(module, "DEFAULT_FINGERPRINT", "0" * 64)
    generate = module._generate
    monkeypatch.setattr(module, "_generate", lambda _: generate(SMALL))
    mnist1d(Mnist1dOptions())
    [warning] = warnings_in(caplog)
    assert all(name in warning for name in ("expected 000000", "mnist1d 0", f"numpy {numpy.__version__}", "scipy 1"))
    caplog.clear()
    mnist1d(SMALL)
    assert not warnings_in(caplog)


def test_the_fingerprint_ignores_last_bits_and_sees_changes():
    inputs = torch.linspace(-2, 2, 1001)[:, None]
    labels = torch.arange(1001) % 10

    def fingerprint(inputs, labels):
        return module.fingerprint({"train_inputs": inputs, "train_targets": labels})

    plain = fingerprint(inputs, labels)
    assert fingerprint(inputs * (1 + 2e-7), labels) == plain
    assert fingerprint(inputs + 1e-3, labels) != plain
    assert fingerprint(inputs, labels.flip(0)) != plain


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_samples": 0}, "greater than or equal to 10"),
        ({"num_samples": 55}, "multiple of 10"),
        ({"train_split": 0.0}, "greater than 0"),
        ({"train_split": 1.0}, "less than 1"),
        ({"num_samples": 10, "train_split": 0.05}, "must leave some in each split"),
        ({"template_len": 1}, "greater than or equal to 2"),
        ({"padding": (60, 36)}, r"padding is \[60, 36\]"),
        ({"padding": (-1, 3)}, r"padding is \[-1, 3\]"),
        ({"max_translation": 73}, "max_translation is 73; it must be at most .* 72"),
        ({"max_translation": 0}, "greater than or equal to 1"),
        ({"scale_coeff": float("inf")}, "finite"),
        ({"iid_noise_scale": float("nan")}, "greater than or equal to 0|finite"),
        ({"shear_scale": -0.1}, "greater than or equal to 0"),
        ({"final_seq_length": 0}, "greater than or equal to 1"),
        ({"seed": -1}, "greater than or equal to 0"),
        ({"seed": 2**32}, "less than 4294967296"),
    ],
)
def test_options_out_of_bounds_are_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Mnist1dOptions(**given)


@pytest.mark.parametrize(
    "given",
    [
        {"num_samples": 10},
        {"padding": (0, 0), "max_translation": 1},
        {"template_len": 2, "padding": (0, 0), "max_translation": 2},
        {"max_translation": 72},
        {"final_seq_length": 1},
        {"scale_coeff": 0, "corr_noise_scale": 0, "iid_noise_scale": 0, "shear_scale": 0},
        {"seed": 2**32 - 1},
    ],
)
def test_options_at_their_bounds_give_sound_data(given):
    check(mnist1d(Mnist1dOptions(**({"num_samples": 50} | given))))
