"""The tests see the built-ins alone, whatever plugins are installed; none has a time limit, all are repeatable."""

import gc
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ["FG_PLUGINS"] = ""
os.environ["OMP_NUM_THREADS"] = "1"  # tests run in as many processes as there are cores; torch reads it at its import

# What is compiled once, tests and all that their processes import, is kept, whatever the environment says.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("fg", deadline=None, derandomize=True)
settings.load_profile("fg")


@pytest.fixture(autouse=True)
def _own_path() -> Iterator[None]:
    """What is imported from a test's folder is not from the folder of the test before."""
    before = list(sys.path)
    yield
    sys.path[:] = before


def pytest_collection_finish() -> None:
    """What is imported by now stays: Python's collector need not look at it again and again, a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
