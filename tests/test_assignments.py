"""`--option key=value` as the recipe's file would have it."""

import pytest

from fgcli.errors import UsageError
from fgcli.recipe import parse_assignments


def test_parse_assignments() -> None:
    given = ["solver=svd", "n=3", "x=1e-3", "flag=true", "word=no", "empty=", "path=a=b", " spaced = 1 "]
    given += ["list=[0.9, 1e-3]", "nested = [[a, no], []]", "brace={a}"]
    assert parse_assignments(given) == {
        "solver": "svd", "n": 3, "x": 1e-3, "flag": True, "word": "no", "empty": None, "path": "a=b", "spaced": 1,
        "list": [0.9, 1e-3], "nested": [["a", "no"], []], "brace": "{a}",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["solver"], "--option is 'solver'; it must be key=value"),
        (["=svd"], "--option is '=svd'; it must be key=value"),
        (["a=[1, 2"], "--option a:1:6: not valid YAML: .*"),
        (["a=[&x 1, *x]"], r"--option a:1:8: aliases .*"),
        (["a=1", "a=2"], "--option a is given twice; give it once"),
        (["a=" + "9" * 5000], "--option a is a number of 5000 characters; at most 100 are allowed"),
    ],
)
def test_parse_assignments_refuses(given: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        parse_assignments(given)
