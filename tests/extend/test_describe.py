from typing import Annotated, Literal

import pytest
from pydantic import Field

from fgcli.extend.describe import default_text, describe, describe_options
from fgcli.extend.entry import Entry
from fgcli.extend.options import Options
from fgcli.extend.plugins import Origin, Registered

Share = Annotated[float, Field(ge=0, lt=1)]


class Sample(Options):
    k: Annotated[int, Field(ge=1)] | Literal["rank"] = Field(default=10, description="K.")
    real: float = Field(default=0.5, gt=0, le=2**0.5, description="Real.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed.")
    even: int = Field(default=2, multiple_of=2, description="Even.")
    pair: tuple[Share, Share] = Field(default=(0.5, 0.9), description="Pair.")
    many: tuple[int, ...] = Field(default=(), description="Many.")
    name: str | None = Field(default=None, description="Name.")
    flag: bool = Field(default=False, description="Flag.")
    needed: int = Field(description="Needed.")
    made: list[str] = Field(default=["x"], description="Made.")
    solver: Literal["svd", "ritz"] = Field(default="svd", description="Solver.")


SHOWN = {
    "k": ("int (>= 1) | 'rank'", "10"),
    "real": ("float (> 0, <= 1.41421)", "0.5"),
    "seed": ("int (>= 0, < 4294967296)", "0"),
    "even": ("int (multiple of 2)", "2"),
    "pair": ("tuple[float (>= 0, < 1), float (>= 0, < 1)]", "[0.5, 0.9]"),
    "many": ("tuple[int, ...]", "[]"),
    "name": ("text | none", "null"),
    "flag": ("bool", "false"),
    "needed": ("int", "(required)"),
    "solver": ("'svd' | 'ritz'", "svd"),
    "made": ("list[text]", '["x"]'),
}


@pytest.mark.parametrize("option", describe_options(Sample), ids=lambda option: option["name"])
def test_types_defaults_and_meaning(option: dict) -> None:
    assert (option["type"], default_text(option)) == SHOWN[option["name"]]
    assert option["description"] == f"{option['name'].capitalize()}."


def test_an_entry_with_its_source() -> None:
    entry = Entry("mine", "mine:Mine", "What it does.")
    assert describe(Registered("fg_models", Origin("dist", "1.0", "module"), entry), "model") == {
        "name": "mine",
        "kind": "model",
        "summary": "What it does.",
        "source": {"distribution": "dist", "version": "1.0", "module": "module"},
        "target": "mine:Mine",
        "options": [],
    }
