"""Datasets of texts, as the bytes of UTF-8: classes or ratings of texts, or the next byte after each."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy
import torch
from torch import Tensor

from fgcli.data.dataset import Dataset, Tokens
from fgcli.data.options import JsonLinesOptions, RatedTextOptions, TextOptions
from fgcli.data.own import divided
from fgcli.data.rated_texts import Rated, fixed_split, read_rated
from fgcli.errors import UsageError

BYTES = 256


class Labelled(NamedTuple):
    """Texts, and a target for each."""

    texts: Sequence[str]
    targets: Tensor


def json_lines(options: JsonLinesOptions, path: Path) -> Dataset:
    """Texts of the user's own. UsageError that names the line of what has no text or no class."""
    lines = [_read_lines(path, options)]
    if options.test_file is not None:
        lines.append(_read_lines(Path(options.test_file), options))
    texts = [[text for text, _ in some] for some in lines]
    if options.targets == "next-byte":
        if len(texts) == 1:
            train, test = divided(str(path), torch.zeros(len(texts[0])), options.test_fraction, options.seed)
            texts = [[texts[0][index] for index in sorted(part)] for part in (train, test)]
        return _language(str(path), texts[0], texts[1], options)
    labels = {label for _, label in lines[0]}
    names = sorted(labels, key=lambda label: (not label.lstrip("-").isdecimal(), len(label), label))
    for file, some in zip((path, options.test_file), lines, strict=False):
        if strange := [label for _, label in some if label not in names]:
            raise UsageError(f"{file}: {strange[0]!r} is no class of {path}: {', '.join(names)}")
    parts = [Labelled([t for t, _ in some], torch.tensor([names.index(one) for _, one in some])) for some in lines]
    if len(parts) == 1:
        whole = parts[0]
        parts = [
            Labelled([whole.texts[index] for index in chosen], whole.targets[chosen])
            for chosen in divided(str(path), whole.targets, options.test_fraction, options.seed)
        ]
    return _of_texts(str(path), parts[0], parts[1], len(names), tuple(names), options)


def _rated(name: str, options: RatedTextOptions) -> Dataset:
    splits = fixed_split(read_rated(name, Path(options.source) if options.source is not None else None))
    if options.targets == "next-byte":
        train, test = ([one.text for one in split] for split in splits)
        return _language(name, train, test, options)
    train, test = (_targets(split, ratings=options.targets == "ratings") for split in splits)
    if options.targets == "ratings":
        return _of_texts(name, train, test, 1, (), options)
    return _of_texts(name, train, test, 2, ("negative", "positive"), options)


# 10,605 snippets of film reviews and 5,190 sentences of editorials, as bytes int64 [n, length]; every fifth tests.
movie_snippets, news = (partial(_rated, name) for name in ("movie-snippets", "news"))


def _targets(split: Sequence[Rated], *, ratings: bool) -> Labelled:
    texts, given = [one.text for one in split], torch.tensor([one.rating for one in split])
    return Labelled(texts, given if ratings else (given > 0).long())


def _of_texts(
    name: str, train: Labelled, test: Labelled, classes: int, names: tuple[str, ...], options: TextOptions
) -> Dataset:
    inputs = [_bytes_of(split.texts, options.length) for split in (train, test)]
    return _shortened(
        Dataset(name, inputs[0], train.targets, inputs[1], test.targets, classes, Tokens(), names), options
    )


def _language(name: str, train: Sequence[str], test: Sequence[str], options: TextOptions) -> Dataset:
    splits = [_sequences("\n".join(texts).encode(), options.length, name) for texts in (train, test)]
    parts = [tensor for one in splits for tensor in (one[:, :-1], one[:, 1:])]
    return _shortened(Dataset(name, *parts, classes=BYTES, preprocessing=Tokens()), options)


def _sequences(text: bytes, length: int, name: str) -> Tensor:
    """[n, length + 1]: each begins with the byte that the one before ends with; the rest is left out."""
    values = numpy.frombuffer(text, dtype=numpy.uint8)
    if len(values) <= length:
        raise UsageError(f"{name}: a split has {len(values)} bytes, and length is {length}; set a smaller length")
    return torch.from_numpy(values.astype(numpy.int64)).unfold(0, length + 1, length)


def _bytes_of(texts: Sequence[str], length: int) -> Tensor:
    found = torch.full((len(texts), length), -1)
    for row, text in zip(found, texts, strict=True):
        values = list(text.encode()[:length])
        row[: len(values)] = torch.tensor(values)
    return found


def _shortened(dataset: Dataset, options: TextOptions) -> Dataset:
    train, test = options.train_samples, options.test_samples
    return Dataset(
        dataset.name, dataset.train_inputs[:train], dataset.train_targets[:train], dataset.test_inputs[:test],
        dataset.test_targets[:test], dataset.classes, dataset.preprocessing, dataset.class_names,
    )  # fmt: skip


def _read_lines(path: Path, options: JsonLinesOptions) -> list[tuple[str, str]]:
    """Texts and classes. UsageError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8: {error}") from error
    found = [_sample(line, f"{path}:{number}", options) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UsageError(f"{path} is empty; it must hold a JSON object a line")
    return found


def _sample(line: str, where: str, options: JsonLinesOptions) -> tuple[str, str]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: the line is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: the line is a JSON {type(value).__name__}; it must be an object")
    text = value.get(options.text)
    if not isinstance(text, str) or not text:
        keys = ", ".join(value) or "nothing"
        raise UsageError(f"{where}: there is no text under {options.text!r} ({keys}); set --dataset-option text=KEY")
    if options.targets == "next-byte":
        return text, ""
    label = value.get(options.target)
    if isinstance(label, bool) or not isinstance(label, str | int) or label == "":
        given = "no class" if label is None else f"{json.dumps(label)}, which is no class,"
        raise UsageError(
            f"{where}: the text has {given} under {options.target!r}; give it text or a whole number, leave the line "
            "out, or set --dataset-option target=KEY"
        )
    return text, str(label)
