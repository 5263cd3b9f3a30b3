import hashlib
import json
import math
import pickle
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgcli import files
from fgcli.errors import RunError
from fgcli.training import checkpoints, tensor_file
from fgcli.training.checkpoints import Checkpoint, CheckpointStore


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(tmp_path, "method: wt\n")


def checkpoint(step):
    generator = torch.Generator().manual_seed(step)
    return Checkpoint(step, {"model.weight": torch.randn(3, 5, generator=generator)}, {"wall_s": step / 7})


def save_two(store):
    store.save(checkpoint(10))
    store.save(checkpoint(20))
    return store.folder / "step-0000000020.safetensors", store.folder / "step-0000000020.json"


def assert_is(found, wanted):
    assert (found.step, found.data) == (wanted.step, wanted.data)
    assert torch.equal(found.tensors["model.weight"], wanted.tensors["model.weight"])


def test_awkward_tensors_come_back_to_the_bit(store):
    base = torch.tensor([1.0, float("nan"), -0.0, float("inf")])
    tensors = {
        "base": base,
        "tied": base,
        "view": base[1:3],
        "transposed": torch.arange(6).reshape(2, 3).T,
        "scalar": torch.tensor(3.0, dtype=torch.float64),
        "empty": torch.zeros(0),
        "other empty": torch.zeros(0, 4),
        "half": torch.tensor([0.1], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
    }
    store.save(Checkpoint(1, tensors, {}))
    found, complaints = store.load_newest()
    assert complaints == []
    assert found is not None
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (tensor.dtype, tensor.shape)
        torch.testing.assert_close(found.tensors[name], tensor, rtol=0, atol=0, equal_nan=True)


def test_newest_two_are_kept(store):
    for step in (5, 10, 15, 20):
        store.save(checkpoint(step))
    assert store.steps() == [15, 20]
    assert len(list(store.folder.iterdir())) == 4
    assert_is(store.load_newest()[0], checkpoint(20))


def test_none_yet(store):
    assert store.load_newest() == (None, [])


def test_any_flipped_byte_is_noticed(store):
    files_ = save_two(store)
    random = Random(0)
    for path in files_:
        whole = path.read_bytes()
        for position in [0, len(whole) - 2, *random.choices(range(len(whole)), k=40)]:
            damaged = bytearray(whole)
            damaged[position] ^= 1 << random.randrange(8)
            path.write_bytes(damaged)
            found, complaints = store.load_newest()
            assert_is(found, checkpoint(10))
            assert len(complaints) == 1
            assert str(path) in complaints[0]
        path.write_bytes(whole)
    assert_is(store.load_newest()[0], checkpoint(20))


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("length", [0, 1, 100])
def test_cut_file_is_noticed(store, which, length):
    path = save_two(store)[which]
    path.write_bytes(path.read_bytes()[:length])
    found, complaints = store.load_newest()
    assert_is(found, checkpoint(10))
    assert str(path) in complaints[0]


def test_missing_tensor_file_is_noticed(store):
    path = save_two(store)[0]
    path.unlink()
    found, complaints = store.load_newest()
    assert_is(found, checkpoint(10))
    assert f"{path}: cannot be read" in complaints[0]


def test_all_damaged_is_an_error_that_names_them(store):
    save_two(store)
    for path in store.folder.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(RunError, match=r"no usable checkpoint in .*step-0000000020.*step-0000000010"):
        store.load_newest()


def test_checkpoint_of_another_recipe_is_refused(store):
    save_two(store)
    with pytest.raises(RunError, match="was written under another recipe"):
        CheckpointStore(store.folder, "method: backprop\n").load_newest()


def test_newer_schema_is_named(store, monkeypatch):
    monkeypatch.setattr(checkpoints, "SCHEMA", 2)
    store.save(checkpoint(10))
    monkeypatch.undo()
    with pytest.raises(RunError, match="has schema 2, this fg reads 1; use a newer fg"):
        store.load_newest()


def forge(store, content):
    """A checkpoint of step 10 whose tensor file is `content`, with checksums that vouch for it."""
    store.save(checkpoint(10))
    tensor_file, manifest_file = (store.folder / f"step-0000000010.{suffix}" for suffix in ("safetensors", "json"))
    tensor_file.write_bytes(content)
    manifest = json.loads(manifest_file.read_text())
    manifest["tensors"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    del manifest["sha256"]
    manifest["sha256"] = checkpoints.text_sum(files.to_json(manifest))
    manifest_file.write_text(json.dumps(manifest))


def test_nothing_is_unpickled(store, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("boom").touch, ())

    forge(store, pickle.dumps(Bomb()))
    with pytest.raises(RunError, match=r"step-0000000010\.safetensors: cannot be read"):
        store.load_newest()
    assert not (tmp_path / "boom").exists()


def header(length, **entry):
    text = json.dumps({"model.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **entry}}).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(8)


@pytest.mark.parametrize(
    "content",
    [
        header(2**63),
        header(2**31),
        header(None, shape=[2**40]),
        header(None, shape=[2**40], data_offsets=[0, 2**42]),
        header(None, shape=[2**63, 2**63]),
        header(None, shape=[-2]),
        header(None, data_offsets=[8, 0]),
        header(None, dtype="PICKLE"),
        (4 * 10**5).to_bytes(8, "little") + b"[" * 4 * 10**5,
    ],
    ids=range(9),
)
def test_headers_that_claim_what_is_not_there_are_refused(store, content):
    forge(store, content)
    with pytest.raises(RunError, match=r"step-0000000010\.safetensors: cannot be read"):
        store.load_newest()


def test_a_sound_forgery_is_read(store):
    """So that the ones before are refused for what they claim."""
    forge(store, header(None))
    assert store.load(10).tensors["model.weight"].tolist() == [0, 0]


def any_bits(dtype, shape, seed):
    """A tensor of bytes drawn at random: NaN with their payloads, subnormal numbers."""
    if dtype is torch.bool:
        return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).bool()
    size = math.prod(shape) * dtype.itemsize
    return (
        torch.frombuffer(bytearray(Random(seed).randbytes(size) + bytes(8)), dtype=torch.uint8)[:size]
        .view(dtype)
        .view(shape)
    )


def bits(tensor):
    return tensor.reshape(-1).view(torch.uint8).tolist()


TENSORS = st.builds(
    any_bits, st.sampled_from([*tensor_file._TYPES]), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 2**32)
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=20)
@given(
    st.dictionaries(st.text().filter(lambda name: name != "__metadata__"), TENSORS, max_size=4),
    st.dictionaries(st.text(), JSON, max_size=3),
)
def test_any_tensors_and_data_come_back_to_the_bit(tmp_path_factory, tensors, data):
    store = CheckpointStore(tmp_path_factory.mktemp("any"), "method: wt\n")
    store.save(Checkpoint(1, tensors, data))
    found = store.load(1)
    assert found.data == data
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (found.tensors[name].dtype, found.tensors[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(found.tensors[name]) == bits(tensor)


@pytest.mark.parametrize("renames_before_the_kill", [0, 1])
def test_kill_inside_a_save_leaves_the_one_before(store, monkeypatch, renames_before_the_kill):
    """0: the tensor file is not yet in place; 1: it is, the manifest is not."""
    store.save(checkpoint(10))
    replace, calls = files.os.replace, []

    def killed(*arguments):
        if len(calls) == renames_before_the_kill:
            raise KeyboardInterrupt
        calls.append(arguments)
        replace(*arguments)

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        store.save(checkpoint(20))
    monkeypatch.undo()
    found, complaints = store.load_newest()
    assert_is(found, checkpoint(10))
    newer = f"{store.folder / 'step-0000000020.safetensors'}: has no manifest, which is written last"
    assert complaints == [newer] * renames_before_the_kill
    store.save(checkpoint(30))
    assert store.steps() == [10, 30]
    assert len(list(store.folder.iterdir())) == 4, "what the kill left behind is cleared away"


def test_full_disk_is_one_line_and_the_one_before_stays(store, monkeypatch):
    store.save(checkpoint(10))

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_tensors", fail)
    with pytest.raises(RunError, match=r"cannot write the checkpoint .*20\.safetensors: .*No space left"):
        store.save(checkpoint(20))
    assert_is(store.load_newest()[0], checkpoint(10))
    assert len(list(store.folder.iterdir())) == 2


def test_damaged_one_of_the_same_step_is_replaced(store):
    tensor_file, _ = save_two(store)
    tensor_file.write_bytes(b"damaged")
    store.save(checkpoint(20))
    assert_is(store.load_newest()[0], checkpoint(20))


def test_damaged_later_one_does_not_push_out_good_ones(store):
    tensor_file, _ = save_two(store)
    tensor_file.write_bytes(b"damaged")
    store.save(checkpoint(15))
    assert store.steps() == [10, 15]


def test_others_may_read_what_their_umask_allows(store):
    tensor_file, manifest_file = save_two(store)
    assert tensor_file.stat().st_mode == manifest_file.stat().st_mode


def test_kept_steps_stay_beside_the_newest_two(tmp_path):
    store = CheckpointStore(tmp_path, "method: wt\n", frozenset({10, 30}))
    for step in (10, 20, 30, 40, 50, 60):
        store.save(checkpoint(step))
    assert store.steps() == [10, 30, 50, 60]
    assert_is(store.load(10), checkpoint(10))


def test_one_step_that_is_damaged_is_said(store):
    tensor_file, _ = save_two(store)
    tensor_file.write_bytes(b"")
    with pytest.raises(RunError, match="damaged"):
        store.load(20)
    assert_is(store.load(10), checkpoint(10))
