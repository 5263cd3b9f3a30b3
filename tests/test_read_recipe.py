"""A recipe's file as it is read, before it is resolved."""

import os
from pathlib import Path

import pytest
from test_recipe import REGISTRY

from fgcli.errors import UsageError
from fgcli.recipe import read_recipe, resolve


def test_read_recipe(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text("epochs: 3\nwidth: 0\n", encoding="utf-8")
    source = read_recipe(file)
    assert source.data == {"epochs": 3, "width": 0}
    with pytest.raises(UsageError, match=r"r\.yaml:2:8: width is 0"):
        resolve(source, {}, REGISTRY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"r\.yaml:1:1: the file is empty; a recipe is a mapping such as 'method: wt'"),
        ("# only this", r"r\.yaml:1:1: the file is empty"),
        ("- a", r"r\.yaml:1:1: the file holds \['a'\]; a recipe is a mapping"),
        ("wt", r"r\.yaml:1:1: the file holds 'wt'; a recipe is a mapping"),
        ("a: !!python/name:os.system", r"r\.yaml:1:4: tags are not allowed"),
    ],
)
def test_what_is_no_recipe(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        read_recipe(os.fspath(file))
