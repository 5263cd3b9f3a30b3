import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from fake_plugins import ONE_METHOD

from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry

NAMES = ("file_of_a_plugin", "broken_file", "json")


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    load_registry.cache_clear()
    for name in NAMES[:2]:
        sys.modules.pop(name, None)


def write(folder: Path, text: str, name: str = "file_of_a_plugin.py") -> Path:
    path = folder / name
    path.write_text(dedent(text), encoding="utf-8")
    return path


def test_a_file_is_a_plugin_called_like_it(tmp_path: Path) -> None:
    path = write(tmp_path, ONE_METHOD.replace("their_module:Theirs", "file_of_a_plugin:Theirs") + "\n    Theirs = 3\n")
    registry = load_registry((path,))
    found = registry.find("method", "file_of_a_plugin:theirs")
    assert found.entry.load() == 3
    assert str(found.origin) == f"file_of_a_plugin file {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}"
    assert "theirs" not in load_registry().method_names()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("broken_file.py", "1 / 0", r"--plugin .*broken_file.py cannot be used: ZeroDivisionError: division by zero"),
        ("broken_file.py", "import sys; sys.exit(3)", r"cannot be used: SystemExit: 3"),
        ("broken_file.py", "x = 1", r"cannot be used: LookupError: it has no hooks; mark them with @hookimpl"),
        ("broken_file.py", ONE_METHOD.replace("return", "return 1 /"), r"cannot be used: TypeError: unsupp"),
        ("broken_file.py", ONE_METHOD.replace("= 2", "= 3"), r"LookupError: it is made for contract 3 .* contract 2"),
        ("my-method.py", "", r"--plugin is .*my-method.py; it must be a Python file whose name is that of a module"),
        ("method.txt", "", r"it must be a Python file whose name is that of a module: my_method.py"),
        ("json.py", ONE_METHOD, r"json.py has the name of the module json of .*; rename the file"),
    ],
)
def test_a_file_that_cannot_be_used_is_an_error(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = write(tmp_path, text, name)
    for _ in range(2):  # a failed import leaves nothing behind
        with pytest.raises(UsageError, match=said):
            load_registry((path,))


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"--plugin nowhere.py cannot be read: No such file or directory"):
        load_registry((Path("nowhere.py"),))
    with pytest.raises(UsageError, match=r"--plugin nowhere.py and none.py cannot be read: No such file or directory"):
        load_registry((Path("nowhere.py"), Path("none.py")))
