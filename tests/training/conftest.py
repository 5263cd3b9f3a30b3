from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache of generated data for all tests here, and not the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(shared_cache, monkeypatch):
    monkeypatch.setenv("FG_CACHE_DIR", str(shared_cache))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, in which it works."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
