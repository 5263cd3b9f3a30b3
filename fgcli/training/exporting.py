"""Trained networks in the formats of other programs, each by its own library's writer."""

import io
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fgcli.errors import UsageError, exception_text
from fgcli.files import put_in_place, temporary_name
from fgcli.training.loading import Trained


def write(trained: Trained, format: str, out: Path) -> None:
    """Write the network to a file, whole or not at all. UsageError where the format cannot hold it."""
    temporary = temporary_name(out)
    try:
        with _quietly():
            _WRITERS[format](trained, temporary)
        put_in_place(temporary, out)
    except OSError:
        raise
    except Exception as cause:
        called = f"format {format} cannot hold model {trained.recipe.model}"
        instead = "" if format == "safetensors" else "; --format safetensors has the weights alone"
        raise UsageError(f"{called}: {exception_text(cause, 200)}{instead}") from cause
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch prints and logs of its work, and of its failures, which are told in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def _safetensors(trained: Trained, path: Path) -> None:
    said = {"format": "pt", "model": trained.recipe.model, "preprocessing": trained.model.preprocessing.extra_repr()}
    safetensors.torch.save_model(trained.model.network, str(path), said)


def _torch_export(trained: Trained, path: Path) -> None:
    program = _program(trained)
    with path.open("xb") as file:
        torch.export.save(program, file)


def _onnx(trained: Trained, path: Path) -> None:
    names: dict[str, Any] = {"input_names": ["inputs"], "output_names": ["outputs"], "dynamic_shapes": _SHAPES}
    torch.onnx.export(_program(trained), (), str(path), dynamo=True, external_data=False, verbose=False, **names)


def _program(trained: Trained) -> torch.export.ExportedProgram:
    dtype = torch.int64 if trained.record.tokens else torch.float32
    example = torch.zeros(2, *trained.record.input_shape, dtype=dtype)
    return torch.export.export(trained.model, (example,), dynamic_shapes=_SHAPES)


_SHAPES = {"inputs": {0: torch.export.Dim("batch")}}
_WRITERS: dict[str, Callable[[Trained, Path], None]] = {
    "safetensors": _safetensors,
    "torch-export": _torch_export,
    "onnx": _onnx,
}
