"""NumPy's files, .npz and .npy, read without unpickling anything."""

import zipfile
import zlib
from pathlib import Path

import numpy
import torch
from torch import Tensor

from fgcli.errors import UsageError
from fgcli.files import require_regular


def read_arrays(path: Path) -> dict[str, numpy.ndarray]:
    """The arrays of a .npz file by name; that of a .npy file is `inputs`. UsageError where it cannot be read."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            found = numpy.load(file)  # refuses pickled objects
            return {"inputs": found} if isinstance(found, numpy.ndarray) else dict(found.items())
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it holds Python objects, or no arrays" if "pickle" in str(error) else error
        raise UsageError(f"{path} cannot be read as arrays: {reason}; write it by numpy.savez") from error


def as_inputs(array: numpy.ndarray, called: str) -> Tensor:
    """Numbers of any type as float32. UsageError for what is none."""
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{called} is of type {array.dtype}; it must be numbers")
    return torch.from_numpy(numpy.ascontiguousarray(array, dtype=numpy.float32))
