"""Option schemas: what a method, dataset, model or optimiser lets its users set. Imports no torch."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError


class Options(BaseModel):
    """Base of every option schema: frozen, unknown keys refused, no NaN or infinity, each field described.

    Put bounds on the type that they belong to: `k: Annotated[int, Field(ge=1)] | Literal["rank"]`.
    A subclass whose field lacks a description, or has an alias, is a TypeError when it is defined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not field.description:
                raise TypeError(f"{cls.__name__}.{name} has no description; give it Field(description=...)")
            if field.alias or field.validation_alias:
                raise TypeError(f"{cls.__name__}.{name} has an alias; an option has one name only")

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse `epochs: true`, which pydantic would read as 1."""
        if isinstance(value, bool) and info.field_name:
            accepted = list(_plain_types(cls.model_fields[info.field_name].annotation))
            if bool not in accepted and (int in accepted or float in accepted):
                raise PydanticKnownError("int_type" if int in accepted else "float_type")
        return value


class GuessOptions(Options):
    """Options that every guess method has."""

    uncovered: Literal["perturb", "freeze"] = Field(
        default="perturb",
        description="Parameters that no site covers: trained by weight perturbation in the same pass, or frozen.",
    )


def _plain_types(annotation: object) -> Iterator[object]:
    """The members of a union, without what is annotated on them; any other type is its own only member."""
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _plain_types(member)
    else:
        yield annotation
