"""CONTRIBUTING.md is run: each example goes from an empty file to a passing test."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL))
TESTS = [name for name in FILES if name.startswith("tests/")]


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The shown modules, as if they lay in the package."""
    modules = []
    for name in FILES:
        if name.startswith("fgcli/"):
            assert not (ROOT / name).exists()
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(FILES[name], encoding="utf-8")
            package = import_module(".".join(Path(name).parent.parts))
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(path.parent)])
            modules.append(".".join(Path(name).with_suffix("").parts))
    yield
    for module in modules:
        sys.modules.pop(module, None)


def test_each_of_the_three_has_a_module_and_a_test() -> None:
    assert len(FILES) == 6
    assert len(TESTS) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", TESTS)
def test_the_shown_test_passes(name: str) -> None:
    namespace: dict[str, object] = {"__name__": Path(name).stem}
    exec(compile(FILES[name], name, "exec"), namespace)
    tests = [one for key, one in namespace.items() if key.startswith("test_") and callable(one)]
    assert tests
    for one in tests:
        one()


def test_what_the_page_names_is_there() -> None:
    named = re.findall(r"(?:fgcli|tests|docs)/[\w/]+\.\w+|\.importlinter", TEXT)
    assert len(named) > 8
    assert all((ROOT / name).exists() or name in FILES for name in named)
    for target in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
