"""Each distribution in plugins/ installs by itself and passes its own tests."""

from pathlib import Path

import packages

PLUGINS = sorted(path.parent for path in (packages.ROOT / "plugins").glob("*/pyproject.toml"))


def test_there_are_three() -> None:
    assert {path.name for path in PLUGINS} >= {"fg-plugin-example", "fg-plugin-singhal", "fg-plugin-tensorboard"}
    assert all((path / "README.md").exists() and list((path / "tests").glob("test_*.py")) for path in PLUGINS)


def test_each_installs_and_passes_its_tests(tmp_path: Path) -> None:
    copies = [packages.copy(plugin, tmp_path) for plugin in PLUGINS]
    packages.install(tmp_path / "site", copies)
    assert " passed" in packages.run_tests(tmp_path / "site", copies)
