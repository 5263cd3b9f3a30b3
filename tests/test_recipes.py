import os

import pytest

from fgcli import recipes
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.recipe import read_recipe, resolve
from fgcli.recipe_keys import Recipe
from fgcli.sweep.read import is_sweep, parse_sweep, resolve_trials


def test_every_shipped_recipe_is_valid():
    files = list(recipes.folder().rglob("*.y*ml"))
    assert files
    for file in files:
        source = read_recipe(file)
        if is_sweep(source):
            assert resolve_trials(parse_sweep(source), source, load_registry())
        else:
            assert isinstance(resolve(source, {}, load_registry()), Recipe)


def test_shipped_by_name():
    assert "quickstart" in recipes.names()
    assert recipes.find("quickstart") == recipes.folder() / "quickstart.yaml"


def test_wheel_has_them_inside_the_package(tmp_path, monkeypatch):
    (tmp_path / "_recipes").mkdir()
    (tmp_path / "_recipes" / "mine.yaml").touch()
    monkeypatch.setattr(recipes, "_PACKAGE", tmp_path)
    assert recipes.names() == ["mine"]
    assert recipes.find("mine") == tmp_path / "_recipes" / "mine.yaml"


@pytest.mark.parametrize("path", ["none.yaml", "folder/quickstart", "/etc/quickstart", "../quickstart"])
def test_what_looks_like_a_path_is_one(path):
    assert str(recipes.find(path)) == path


def test_a_file_of_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("method: wt")
    os.mkfifo(tmp_path / "pipe")  # reading it says what it is
    (tmp_path / "table3").mkdir()
    assert [str(recipes.find(name)) for name in ("quickstart", "pipe")] == ["quickstart", "pipe"]
    assert recipes.find("table3").name == "table3.yaml"


def test_unknown_name():
    with pytest.raises(UsageError, match="--recipe: unknown recipe 'quikstart'; did you mean 'quickstart'"):
        recipes.find("quikstart")


@pytest.mark.parametrize(
    ("holds", "said"),
    [
        (None, "--recipe is runs/mine, a folder; it must be a recipe's file"),
        ("recipe.yaml", "file: runs/mine/recipe.yaml, which its run was begun with"),
        ("sweep.yaml", "file; its sweep goes on with: fgcli bench runs/mine/sweep.yaml --out runs/mine"),
    ],
)
def test_a_folder_is_none_and_what_it_holds_is_named(tmp_path, monkeypatch, holds, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    if holds:
        (tmp_path / "runs/mine" / holds).touch()
    with pytest.raises(UsageError) as refused:
        recipes.find("runs/mine")
    assert str(refused.value).endswith(said)
