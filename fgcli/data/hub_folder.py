"""A folder that Hugging Face datasets wrote by `save_to_disk`."""

from pathlib import Path
from typing import Any

import numpy

from fgcli.data.dataset import Dataset
from fgcli.data.options import HubOptions
from fgcli.data.own import Samples, own_dataset
from fgcli.data.tables import samples_of
from fgcli.errors import UsageError, exception_text, unknown
from fgcli.extend.extras import require


def hub_folder(options: HubOptions, path: Path) -> Dataset:
    """One column of arrays or images, or columns of numbers. Splits: `train` and `test`, or `validation`; or one.

    UsageError for splits and columns that no samples can be made of.
    """
    require("huggingface", "datasets", what=str(path))
    import datasets  # pyright: ignore[reportMissingImports] # an extra

    try:
        found: Any = datasets.load_from_disk(str(path))
    except Exception as cause:
        raise UsageError(f"{path} cannot be read: {exception_text(cause)}") from cause
    splits = dict(found) if isinstance(found, datasets.DatasetDict) else {"train": found}
    test = splits.get("test", splits.get("validation"))
    if "train" not in splits:
        raise UsageError(f"{path} has the splits {', '.join(map(str, splits))}; it must have train")
    features = splits["train"].features
    labels = [name for name, one in features.items() if isinstance(one, datasets.ClassLabel)]
    if options.target is None and len(labels) != 1:
        choice = f"its columns are {', '.join(features)}; name the target: --dataset-option target=NAME"
        raise UsageError(f"{path} has {len(labels)} columns of class labels, which must be one: {choice}")
    target = options.target or labels[0]
    for key in (target, *options.columns):
        if key not in features:
            raise unknown(f"column of {path}", key, features, where="--dataset-option")
    columns = options.columns or [name for name in features if name != target]
    names = features[target].names if isinstance(features[target], datasets.ClassLabel) else ()
    train = _samples(splits["train"], target, columns, path)
    held_out = None if test is None else _samples(test, target, columns, path)
    return own_dataset(str(path), train, held_out, options, names)


def _samples(split: Any, target: str, columns: list[str], path: Path) -> Samples:
    split = split.with_format("numpy")
    if len(columns) > 1:
        return samples_of({key: numpy.asarray(split[key][:]) for key in (*columns, target)}, target, columns, str(path))
    inputs = numpy.asarray(split[columns[0]][:])
    if inputs.dtype.kind not in "biuf":
        raise UsageError(f"{path}: column {columns[0]!r} holds no numbers of one shape; choose columns, or pad it")
    if split.features[columns[0]].__class__.__name__ == "Image":  # [n, height, width(, channels)]
        inputs = inputs[:, None] if inputs.ndim == 3 else numpy.moveaxis(inputs, 3, 1)
    return Samples(inputs[:, None] if inputs.ndim == 1 else inputs, numpy.asarray(split[target][:]))
