"""docs/reliability.md names tests that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))


def test_every_test_that_is_named_exists() -> None:
    assert len(NAMED) > 40
    for file in {file for file, _ in NAMED}:
        functions = {
            node.name for node in ast.parse((ROOT / file).read_text("utf-8")).body if isinstance(node, ast.FunctionDef)
        }
        assert {name for named, name in NAMED if named == file} <= functions, file
