import pytest


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """One cache of generated data for all tests here, and not the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def workplace(shared_cache, tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.setenv("FG_CACHE_DIR", str(shared_cache))
    folder = tmp_path / "workplace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder
