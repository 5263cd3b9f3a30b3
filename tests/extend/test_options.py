from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from fgcli.extend.options import GuessOptions, Options, with_engine_options


class Sample(Options):
    number: Annotated[int, Field(ge=1)] | Literal["rank"] = Field(default=1, description="A number.")
    real: float | None = Field(default=None, description="A real.")
    flag: bool = Field(default=False, description="A flag.")
    either: int | bool = Field(default=0, description="Both.")
    pairs: list[tuple[int, float]] = Field(default=[], description="Pairs.")


@pytest.mark.parametrize("given", [{"number": True}, {"real": False}, {"real": float("nan")}, {"real": float("inf")}])
def test_true_and_nan_are_no_numbers(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=r"should be a (valid|finite) "):
        Sample.model_validate(given)


@pytest.mark.parametrize("given", [{"flag": True}, {"either": True}, {"number": "rank"}, {"number": 4}, {"real": 1}])
def test_what_a_field_takes(given: dict[str, object]) -> None:
    (name, value), *_ = given.items()
    assert getattr(Sample.model_validate(given), name) == value


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"number": "4"}, ("number",)),
        ({"real": "1_000"}, ("real",)),
        ({"flag": 1}, ("flag",)),
        ({"flag": "yes"}, ("flag",)),
        ({"pairs": [[1, 2], [3, "4"]]}, ("pairs", 1, 1)),
        ({"pairs": [[True, 2]]}, ("pairs", 0, 0)),
    ],
)
def test_nothing_is_read_as_something_else(given: dict[str, object], place: tuple[object, ...]) -> None:
    with pytest.raises(ValidationError, match=r"should be a valid ") as caught:
        Sample.model_validate(given)
    assert [fault["loc"] for fault in caught.value.errors()] == [place]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Sample.model_validate({"numbr": 1})


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample().number = 2


def test_a_field_must_be_described() -> None:
    with pytest.raises(TypeError, match=r"Bad\.x has no description; give it Field"):

        class Bad(Options):
            x: int = 1


def test_a_field_has_one_name() -> None:
    with pytest.raises(TypeError, match=r"Bad\.x has an alias"):

        class Bad(Options):
            x: int = Field(default=1, alias="y", description="X.")


def test_a_default_is_a_plain_value() -> None:
    with pytest.raises(TypeError, match=r"Bad\.x has a default_factory; give it a plain default"):

        class Bad(Options):
            x: int = Field(default_factory=int, description="X.")


def test_every_guess_method_has_the_options_of_tangents_and_may_not_redefine_them() -> None:
    class Own(Options):
        share: int = Field(default=1, description="Share.")

    class Clash(Options):
        tangents: int = Field(default=1, description="Mine.")

    assert list(with_engine_options(Own).model_fields)[:2] == ["share", "tangents"]
    assert isinstance(with_engine_options(Own).model_validate({"tangents": 3}), Own)
    assert with_engine_options(Own) is with_engine_options(Own)
    with pytest.raises(ValueError, match="option tangents of Clash is the engine's for every guess method; rename it"):
        with_engine_options(Clash)


def test_uncovered_parameters_are_perturbed_by_default() -> None:
    assert GuessOptions().uncovered == "perturb"
