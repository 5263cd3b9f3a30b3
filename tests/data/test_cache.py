import logging
import os

import pytest
import torch

from fgcli.data import cache

TENSORS = {"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.tensor([1, 2])}


def test_what_is_saved_is_loaded(cache_folder):
    path = cache_folder / "deep" / "x.safetensors"
    cache.save(path, TENSORS)
    loaded = cache.load(path)
    assert loaded is not None
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0)
    assert [entry.name for entry in path.parent.iterdir()] == ["x.safetensors"]


def test_absent_data_is_no_reason_to_warn(cache_folder, caplog):
    assert cache.load(cache_folder / "x.safetensors") is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_every_flipped_byte_is_noticed(cache_folder, caplog):
    path = cache_folder / "x.safetensors"
    cache.save(path, TENSORS)
    whole = path.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        caplog.clear()
        loaded = cache.load(path)
        if loaded is None:
            assert [record.levelname for record in caplog.records] == ["WARNING"], position
        else:  # a byte that carries nothing, such as the name of another metadata entry
            assert cache.digest(loaded) == cache.digest(TENSORS), position


@pytest.mark.parametrize("length", [0, 4, 20, -1])
def test_a_cut_off_file_is_noticed(cache_folder, caplog, length):
    path = cache_folder / "x.safetensors"
    cache.save(path, TENSORS)
    path.write_bytes(path.read_bytes()[:length])
    assert cache.load(path) is None
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_crash_while_writing_leaves_the_old_content(cache_folder, monkeypatch):
    path = cache_folder / "x.safetensors"
    cache.save(path, TENSORS)
    before = path.read_bytes()

    def crash(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", crash)
    cache.save(path, {"a": torch.zeros(1)})
    assert path.read_bytes() == before
    assert [entry.name for entry in cache_folder.iterdir()] == ["x.safetensors"]


def test_the_digest_sees_names_types_shapes_and_contents():
    tensor = TENSORS["a"]
    variants = [
        {"a": tensor},
        {"b": tensor},
        {"a": tensor.flatten()},
        {"a": tensor + 1},
        {"a": tensor.view(torch.int32)},
    ]
    assert len({cache.digest(variant) for variant in variants}) == len(variants)
