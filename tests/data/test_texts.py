"""Datasets of texts: bytes and tokens, the rated texts that pip fetches, JSON lines, and what is refused."""

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tiny_runs import fg

from fgcli import Dataset, Tokens, UsageError, load_registry
from fgcli.data import rated_texts, texts
from fgcli.data.rated_texts import Rated, fixed_split
from fgcli.recipe import resolve
from fgcli.training.assembly import load_dataset
from fgcli.training.losses import cross_entropy

RATED = [Rated(f"{'good' if n % 2 else 'bad'} film {n}", 1.5 if n % 2 else -0.5) for n in range(20)]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(name: str, **options: Any) -> Dataset:
    recipe = resolve(None, {"dataset": name, "dataset_options": options}, load_registry())
    return load_dataset(recipe, load_registry())


def write(*lines: Any, name: str = "t.jsonl") -> None:
    Path(name).write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in lines))


def text_of(row: torch.Tensor) -> str:
    return bytes(row[row >= 0].tolist()).decode()


def test_texts_are_bytes_with_a_rating_or_the_class_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "read_rated", lambda name, archive: RATED)
    found = load("movie-snippets", length=10)
    assert isinstance(found.preprocessing, Tokens)
    assert (found.train_inputs.shape, found.test_inputs.shape) == ((16, 10), (4, 10))
    read = {text_of(row): int(y) for row, y in zip(found.train_inputs, found.train_targets, strict=True)}
    assert read["bad film 2"] == 0
    assert read["good film "] == 1  # cut at ten bytes
    assert found.class_names == ("negative", "positive")
    ratings = load("news", targets="ratings", train_samples=3)
    assert (ratings.train_targets.dtype, len(ratings.train_targets), ratings.classes) == (torch.float32, 3, 1)
    assert set(ratings.test_targets.tolist()) == {1.5, -0.5}


def test_the_next_byte_is_the_target_of_each_and_no_text_is_in_two_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "read_rated", lambda name, archive: RATED)
    found = load("news", targets="next-byte", length=7)
    whole = "".join(text_of(row) for row in found.train_inputs)
    assert whole == "\n".join(one.text for one in fixed_split(RATED)[0])[: len(whole)]
    assert torch.equal(found.train_inputs[:, 1:], found.train_targets[:, :-1])
    assert torch.equal(found.train_inputs[1:, 0], found.train_targets[:-1, -1])
    assert found.classes == 256


def test_the_split_is_fixed_shuffled_and_keeps_copies_together() -> None:
    rated = [Rated(str(n), float(n < 50)) for n in range(99)] + [Rated("4", 0.0)]
    train, test = fixed_split(rated)
    assert (len(train), len(test)) == (80, 20)  # 4, 9, … 94, and the copy of 4
    assert sum(one.text == "4" for one in test) == 2
    assert 10 < sum(one.rating for one in train[:40]) < 30  # the file has all of one kind first
    assert fixed_split(rated) == (train, test)


def test_the_archive_that_is_missing_is_asked_for_by_its_command(cache_folder: Path) -> None:
    with pytest.raises(UsageError) as error:
        load("movie-snippets")
    command = f"pip download --no-deps --no-binary :all: --dest {cache_folder} vaderSentiment==0.5"
    assert f"dataset movie-snippets needs {cache_folder / rated_texts.ARCHIVE}, which is not there" in str(error.value)
    assert str(error.value).endswith(command)


def test_another_file_in_its_place_is_refused() -> None:
    Path("no.zip").write_bytes(b"no zip")
    with zipfile.ZipFile("other.zip", "w") as archive:
        archive.writestr(rated_texts._INNER, b"other texts")
    refused("news", {"source": "no.zip"}, "no.zip is not vaderSentiment-0.5.zip: ")
    refused("news", {"source": "other.zip"}, "other.zip is not vaderSentiment-0.5.zip: the texts in it have another")
    refused("news", {"source": "gone.zip"}, "gone.zip cannot be read: No such file")


GOOD: dict[str, Any] = {"text": "a", "label": 0}
BAD: dict[str, tuple[list[Any], str]] = {
    "no label": ([GOOD, {"text": "b"}], "t.jsonl:2: the text has no class under 'label'; give it text or a whole"),
    "null label": ([{"text": "b", "label": None}], "t.jsonl:1: the text has no class under 'label'"),
    "label with a fraction": ([{"text": "b", "label": 0.5}], "t.jsonl:1: the text has 0.5, which is no class,"),
    "no text": ([GOOD, "", {"label": 1}], "t.jsonl:3: there is no text under 'text' (label); set --dataset-option"),
    "no object": ([[1]], "t.jsonl:1: the line is a JSON list; it must be an object"),
    "no JSON": (["{"], "t.jsonl:1: the line is no JSON: "),
    "nothing": ([""], "t.jsonl is empty; it must hold a JSON object a line"),
}


def refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        load(name, **options)
    assert said in str(error.value)


@pytest.mark.parametrize("case", BAD)
def test_lines_that_are_no_samples_are_refused_with_their_number(case: str) -> None:
    write(*BAD[case][0])
    refused("t.jsonl", {}, BAD[case][1])


def test_classes_are_ordered_and_a_test_file_may_have_no_others() -> None:
    write(*({"text": str(n), "label": n} for n in (10, 2, 10, 2, 2)))
    write({"text": "x", "label": 2}, {"text": "y", "label": 3}, name="other.jsonl")
    found = load("t.jsonl", test_fraction=0.4)
    assert found.class_names == ("2", "10")
    read = {text_of(x): int(y) for x, y in zip(found.train_inputs, found.train_targets, strict=True)}
    assert read == {"2": 0, "10": 1}
    refused("t.jsonl", {"test_file": "other.jsonl"}, "other.jsonl: '3' is no class of t.jsonl: 2, 10")


def test_the_loss_of_tokens_is_the_mean_over_them() -> None:
    logits, classes = torch.randn(2, 3, 5, dtype=torch.float64), torch.tensor([[0, 4, 1], [2, 2, 3]])
    expected = -logits.log_softmax(2).gather(2, classes.unsqueeze(2)).squeeze(2).mean(1)
    torch.testing.assert_close(cross_entropy(logits, classes), expected)


FLAGS = ["--width=16", "--depth=1", "--batch-size=8", "--lr=0.02", "--threads=1", "--dataset-option=length=8"]
GPT = ["--model=gpt-tiny", "--model-option=heads=2"]


def test_a_classifier_of_texts_is_trained_evaluated_and_asked() -> None:
    write(*({"text": f"{'ab' if n % 2 else 'ba'}{n}", "label": "ab" if n % 2 else "ba"} for n in range(40)))
    kind = [*GPT, "--model-option=predicts=class", "--method=activation-perturbation", "--feedback=local"]
    done = fg("train", *FLAGS, *kind, "--dataset=t.jsonl", "--epochs=6", "--out=run")
    assert done.exit_code == 0, done.output
    assert "\nt.jsonl: 32 training and 8 test samples of [8], 2 classes (ab, ba); inputs are tokens\n" in done.stdout
    measured = fg("evaluate", "run")
    assert measured.stdout.count("accuracy │ 1.0000 │ 1.0000") == 1, measured.output
    given = numpy.full((2, 8), -1)
    given[0, :2], given[1, :2] = list(b"ba"), list(b"ab")
    numpy.save("x.npy", given)
    assert fg("predict", "run", "x.npy", "--out=p.npz").exit_code == 0
    assert numpy.load("p.npz")["names"].tolist() == ["ba", "ab"]


def test_a_language_model_is_resumed_to_the_same_weights() -> None:
    write(*({"text": f"line {n} of a text"} for n in range(30)))
    flags = [*FLAGS, *GPT, "--dataset=t.jsonl", "--dataset-option=targets=next-byte", "--method=wt"]
    for out, steps in (("whole", 4), ("stopped", 2)):
        done = fg("train", *flags, f"--max-steps={steps}", f"--out={out}")
        assert done.exit_code == 0, done.output
    assert fg("train", "--resume=stopped", "--max-steps=4").exit_code == 0
    results = [json.loads(Path(out, "result.json").read_text()) for out in ("whole", "stopped")]
    assert results[0]["test_loss"] == results[1]["test_loss"] < 5.8  # log 256 is 5.5


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--model=mlp"], "the inputs of dataset t.jsonl are tokens: use a model of texts, such as gpt-tiny"),
        ([*GPT, "--model-option=vocabulary=90"], "model option vocabulary is 90; the data hold token 98"),
        ([*GPT, "--dataset-option=length=50"], "has 32 bytes, and length is 50; set a smaller length"),
    ],
)
def test_what_does_not_fit_texts_is_refused(flags: list[str], said: str) -> None:
    write(*({"text": "ab"} for _ in range(14)))
    given = ["--dataset=t.jsonl", "--dataset-option=targets=next-byte", "--dataset-option=length=2", "--batch-size=2"]
    both = [one for one in given if not any(one.rpartition("=")[0] == flag.rpartition("=")[0] for flag in flags)]
    done = fg("train", *both, *flags, "--max-steps=1", "--out=run")
    assert (done.exit_code, said in done.output, Path("run").exists()) == (2, True, False), done.output


def test_numbers_are_no_texts() -> None:
    done = fg("train", *GPT, "--out=run")
    assert "fg: gpt-tiny takes tokens, and the inputs are numbers: use a dataset of texts" in done.output
    assert done.exit_code == 2
