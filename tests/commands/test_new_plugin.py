import filecmp
import re
from pathlib import Path

import packages
import pytest
from tiny_runs import fg

from fgcli.commands.new_plugin import Kind, write_plugin
from fgcli.errors import UsageError
from fgcli.extend.registry import HOOKS


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def test_there_is_a_kind_for_every_hook() -> None:
    assert {kind.value for kind in Kind} == {re.sub("[ _]", "-", kind) for kind in HOOKS}


def test_it_says_what_to_do_next(workplace: Path) -> None:
    done = fg("new-plugin", "fg-plugin-mine", "--kind", "dataset")
    assert done.exit_code == 0
    assert done.stdout == (
        "wrote fg-plugin-mine; now: pip install -e fg-plugin-mine && python -m pytest fg-plugin-mine\n"
    )
    assert Path("tests/test_fg_plugin_mine.py") in files(workplace / "fg-plugin-mine")
    assert "fgcli train --dataset mine" in (workplace / "fg-plugin-mine" / "README.md").read_text()


def test_the_example_plugin_is_what_it_writes(workplace: Path) -> None:
    assert fg("new-plugin", "fg-plugin-example").exit_code == 0
    shipped = packages.ROOT / "plugins" / "fg-plugin-example"
    written = files(workplace / "fg-plugin-example")
    assert written == files(shipped)
    same, _, _ = filecmp.cmpfiles(workplace / "fg-plugin-example", shipped, map(str, written), shallow=False)
    assert set(map(Path, same)) == written


BAD = {
    "../evil": "NAME is '../evil'; it must be small letters, digits and single hyphens",
    "Upper": "NAME is 'Upper'; it must be small letters",
    "a" * 300: "…; it must be small letters, digits and single hyphens, at most 100 of them",
    "json": "NAME is 'json'; there is a module json already",
    "fg-plugin-class": "NAME is 'fg-plugin-class'; 'class' is no name for a function",
    "fg-plugin-2nd": "NAME is 'fg-plugin-2nd'; '2nd' is no name for a function",
    "taken": "taken exists; give another name, or remove it",
}


@pytest.mark.parametrize(("name", "said"), BAD.items())
def test_a_bad_name_is_one_line_exit_2_and_nothing_written(workplace: Path, name: str, said: str) -> None:
    (workplace / "taken").mkdir()
    done = fg("new-plugin", name)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert files(workplace) == set()
    assert not (workplace.parent / "evil").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes").touch()
    with pytest.raises(UsageError, match=r"cannot make the folder .*notes/fg-plugin-mine.*: Not a directory"):
        write_plugin(tmp_path / "notes", "fg-plugin-mine", Kind.GUESS_METHOD)


def test_an_unknown_kind_lists_the_known(workplace: Path) -> None:
    done = fg("new-plugin", "mine", "--kind", "guess")
    assert done.exit_code == 2
    assert "guess-method" in done.output
