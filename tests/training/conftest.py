import pytest


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache of generated data for all tests here, and not the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(shared_cache, monkeypatch):
    monkeypatch.setenv("FG_CACHE_DIR", str(shared_cache))
