import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    """A cache folder of the test's own, so that no test reads or writes the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FG_CACHE_DIR", str(folder))
    return folder
