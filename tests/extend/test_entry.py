import json

import pytest

from fgcli.errors import UsageError
from fgcli.extend.entry import Entry


def test_load() -> None:
    assert Entry("x", "json:JSONDecoder.decode", "Summary.").load() is json.JSONDecoder.decode


@pytest.mark.parametrize("name", ["", "../x", "a b", "a/b", "-x", "<script>", "a\n", ".hidden"])
def test_names_are_safe_as_file_names(name: str) -> None:
    with pytest.raises(ValueError, match=r"^name is .*; it must be letters, digits"):
        Entry(name, "json:loads", "Summary.")


@pytest.mark.parametrize("target", ["json", "json:", ":loads", "json.loads", "js on:loads", "json:loads\n", "a-b:c"])
def test_targets_are_module_and_attribute(target: str) -> None:
    with pytest.raises(ValueError, match=r"target of x is .*; it must be 'module:attribute'"):
        Entry("x", target, "Summary.")


@pytest.mark.parametrize("summary", ["", "two\nlines"])
def test_summaries_are_one_line(summary: str) -> None:
    with pytest.raises(ValueError, match=r"summary of x is .*; it must be one line"):
        Entry("x", "json:loads", summary)


def test_options_are_a_schema() -> None:
    with pytest.raises(TypeError, match=r"options of x is .*; it must be a subclass of Options"):
        Entry("x", "json:loads", "Summary.", dict)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("no_such_module:X", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:nothing", "AttributeError: "),
    ],
)
def test_what_cannot_be_loaded_says_why(target: str, cause: str) -> None:
    with pytest.raises(UsageError, match=f"^x cannot be loaded from {target}: {cause}"):
        Entry("x", target, "Summary.").load()
