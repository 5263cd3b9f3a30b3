from pathlib import Path
from typing import Annotated, Literal, Self

import pytest
from pydantic import Field, ValidationError, model_validator

from fgcli.extend.explain import first_fault, shown
from fgcli.extend.options import Options


class Inner(Options):
    size: int = Field(default=1, ge=1, description="Size.")


class Sample(Options):
    k: Annotated[int, Field(ge=1)] | Literal["rank"] | None = Field(default=1, description="K.")
    real: float = Field(default=0.5, gt=0, lt=1, description="Real.")
    name: str = Field(default="", description="Name.")
    flag: bool = Field(default=False, description="Flag.")
    even: int = Field(default=2, multiple_of=2, description="Even.")
    pair: tuple[int, int] = Field(default=(1, 2), description="Pair.")
    inner: Inner = Field(default=Inner(), description="Inner.")
    solver: Literal["svd", "ritz"] = Field(default="svd", description="Solver.")
    many: list[int] = Field(default=[], max_length=1, description="Many.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.even == 8:
            raise ValueError("even must not be eight")
        return self


@pytest.mark.parametrize(
    ("given", "path", "sentence"),
    [
        ({"k": 0}, ("k",), "is 0; it must be at least 1 or 'rank'"),
        ({"k": "x"}, ("k",), "is 'x'; it must be a whole number or 'rank'"),
        ({"k": 1.5}, ("k",), "is 1.5; it must be a whole number or 'rank'"),
        ({"real": 0}, ("real",), "is 0; it must be above 0"),
        ({"real": 1}, ("real",), "is 1; it must be below 1"),
        ({"real": "x"}, ("real",), "is 'x'; it must be a number"),
        ({"real": None}, ("real",), "is empty; it must be a number"),
        ({"real": float("nan")}, ("real",), "is nan; it must be a finite number"),
        ({"name": 5}, ("name",), "is 5; it must be text"),
        ({"flag": "x"}, ("flag",), "is 'x'; it must be true or false"),
        ({"even": 3}, ("even",), "is 3; it must be a multiple of 2"),
        ({"pair": 1}, ("pair",), "is 1; it must be a list"),
        ({"pair": [1, "a"]}, ("pair", 1), "is 'a'; it must be a whole number"),
        ({"pair": [1]}, ("pair", 1), "is missing; it has no default"),
        ({"inner": 3}, ("inner",), "is 3; it must be a mapping of names to values"),
        ({"inner": {"size": 0}}, ("inner", "size"), "is 0; it must be at least 1"),
        ({"solver": "svx"}, ("solver",), "is 'svx'; it must be 'svd' or 'ritz'"),
        ({"many": [1, 2]}, ("many",), "is [1, 2]; it must be at most 1 long"),
        ({"even": 8}, (), "even must not be eight"),
    ],
)
def test_first_fault(given: dict[str, object], path: tuple[str | int, ...], sentence: str) -> None:
    with pytest.raises(ValidationError, match="validation error") as caught:
        Sample.model_validate(given)
    assert first_fault(caught.value, given) == (path, sentence)


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "empty"), (True, "true"), ("a\nb", r"'a\nb'"), (Path("x").name, "'x'"), ("x" * 1000, "'" + "x" * 58 + "…")],
)
def test_shown(value: object, text: str) -> None:
    assert shown(value) == text
