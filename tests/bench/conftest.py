from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_executor import STUB
from tiny_runs import fg

SWEEP = """\
base:
  epochs: 30
  width: 8
  depth: 2
  batch_size: 32
  eval_every: 1
  lr: 0.01
  dataset_options: {num_samples: 100}
  device: cpu
grid:
  methods: [backprop, {label: W̃ᵀ, method: wt}]
  seed: [0, 1]
"""


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def workplace(shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a sweep, sweep.yaml."""
    monkeypatch.setenv("FG_CACHE_DIR", str(shared_cache))
    folder = tmp_path / "workplace"
    folder.mkdir()
    (folder / "sweep.yaml").write_text(SWEEP, encoding="utf-8")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plugin file of the executor that trains nothing: one for all tests, as its module is imported once."""
    file = tmp_path_factory.mktemp("stub") / "stub.py"
    file.write_text(STUB, encoding="utf-8")
    return file


@pytest.fixture
def stubbed(stub: Path) -> Callable[..., Any]:
    """`fgcli bench sweep.yaml --out d` by the executor that trains nothing."""

    def stubbed(*flags: str) -> Any:
        return fg("bench", "sweep.yaml", "--out", "d", "--plugin", str(stub), "--executor", "stub", *flags)

    return stubbed
