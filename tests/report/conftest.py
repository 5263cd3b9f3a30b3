"""Reports of made-up runs."""

from pathlib import Path

import pytest
from fake_runs import SWEEP, accuracy, fake_sweep


@pytest.fixture
def sweep_folder(tmp_path: Path) -> Path:
    return fake_sweep(tmp_path / "sweep", SWEEP, accuracy)
