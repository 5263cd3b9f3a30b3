"""Option schemas: what a method, dataset, model or optimiser lets its users set. Imports no torch."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic_core import InitErrorDetails


class Options(BaseModel):
    """Base of every option schema: frozen, unknown keys refused, no NaN or infinity, each field described.

    Put bounds on the type that they belong to: `k: Annotated[int, Field(ge=1)] | Literal["rank"]`.
    A subclass whose field lacks a description, or has an alias or a default_factory, is a TypeError when it is defined.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        for name, field in cls.model_fields.items():
            if not field.description:
                raise TypeError(f"{cls.__name__}.{name} has no description; give it Field(description=...)")
            if field.alias or field.validation_alias:
                raise TypeError(f"{cls.__name__}.{name} has an alias; an option has one name only")
            if field.default_factory is not None:  # listings, which show defaults, call no code of a plugin
                raise TypeError(f"{cls.__name__}.{name} has a default_factory; give it a plain default")

    @model_validator(mode="wrap")
    @classmethod
    def _nothing_is_read_as_something_else(cls, data: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Refuse `epochs: true`, `seed: "3"` and `bias: 1`, which pydantic would read as 1, 3 and true."""
        made = handler(data)
        if isinstance(data, Mapping):
            faults = [fault for name in data for fault in _misread((name,), data[name], getattr(made, name))]
            if faults:
                raise ValidationError.from_exception_data(cls.__name__, faults)
        return made


class GuessOptions(Options):
    """Options that every guess method has."""

    uncovered: Literal["perturb", "freeze"] = Field(
        default="perturb",
        description="Parameters that no site covers: trained by weight perturbation in the same pass, or frozen.",
    )
    embeddings: Literal["guess", "isotropic", "freeze"] = Field(
        default="guess",
        description="Tables whose rows are looked up: the method's `guess` at the rows, `isotropic` noise there, or "
        "frozen, where no other layer uses them.",
    )


class TangentOptions(Options):
    """Options of how many directions a step looks along."""

    tangents: int = Field(default=1, ge=1, description="Directions in one step; the network itself is computed once.")
    combine: Literal["mean", "orthogonal", "sitewise", "projection"] = Field(
        default="mean",
        description="`mean` of the tangents' estimates; `orthogonal`: their mean, of directions orthogonal in the "
        "coordinates of the guesses, over all layers together; `sitewise`: so many for each layer, orthogonal there, "
        "which start at that layer; `projection`: of the gradient, onto their span.",
    )
    draws: Literal["gaussian", "rademacher", "antithetic"] = Field(
        default="gaussian",
        description="Noise: Gaussian, random signs, or pairs of Gaussian draws of opposite sign (a control: an exact "
        "derivative is as good without the second of them).",
    )
    shrinkage: float = Field(
        default=0.01, gt=0, le=1, description="`projection`: of the guesses' Gram matrix toward its mean diagonal."
    )
    tangent_chunk: int | None = Field(
        default=None, ge=1, description="Tangents carried at a time, for less memory: the network is computed for each."
    )

    @model_validator(mode="after")
    def _draws_suit(self) -> Self:
        if self.draws == "antithetic" and self.tangents % 2:
            raise ValueError(f"tangents is {self.tangents}; with draws antithetic it must be even")
        if self.combine in ("orthogonal", "sitewise") and self.draws != "gaussian":
            raise ValueError(
                f"draws is {self.draws}; combine {self.combine} makes its own of Gaussian ones: leave it out"
            )
        if self.combine == "projection" and self.draws == "antithetic":
            raise ValueError("draws is antithetic, whose pairs span one line each; combine projection needs another")
        return self


class MemoryOptions(TangentOptions):
    """Options of how many directions a step looks along, and what it may hold."""

    memory: Literal["auto", "store", "replay"] = Field(
        default="auto",
        description="`auto`: no more memory than backpropagation takes, by parts of the batch where that is less than "
        "all at once; `replay`: no more than inference takes, by small parts or by two passes that store nothing of a "
        "layer; `store`: what each layer of the whole batch saw. The numbers are the same.",
    )


class EngineOptions(MemoryOptions):
    """Options of the engine that drives guess methods. All of them have these, without declaring them."""

    output_gradient: Literal["guess", "exact"] | None = Field(
        default=None,
        description="At the last layers, from which only the output is reached: `guess` as the papers do, or the "
        "`exact` gradient, which is local; default: `guess`, with feedback `exact`.",
    )
    feedback: str = Field(
        default="none",
        description="Rule that predicts each layer's gradient from the output's: `direct`: by a matrix learned for the "
        "next layers' inputs; `local`: by the next layers' own weights, and the matrix behind them; "
        "`feedback-alignment`, `sign-symmetry`, `direct-feedback-alignment`, `fdfa`: as their authors have them; or a "
        "plugin's.",
    )
    feedback_learning: Literal["tangents", "bootstrap", "fixed", "none"] = Field(
        default="tangents",
        description="What the matrices learn from: `tangents` of noise at the layers' inputs; `bootstrap`: the local "
        "prediction; `fixed`: nothing, they are random; `none`: they are 0, which leaves the exact paths.",
    )
    feedback_rate: float = Field(
        default=0.02,
        gt=0,
        le=1,
        description="Rate that the learning of the matrices falls to from 1; of `fdfa` its constant β.",
    )
    feedback_every: int = Field(
        default=1, ge=1, description="Steps between two passes with tangents, after the first 24 steps."
    )
    feedback_layers: int = Field(
        default=1,
        ge=1,
        description="Of `local`: layers by whose own weights a prediction is pulled back. More are exact nearer to the "
        "output, and take a product with every weight each.",
    )
    correction: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of the guess's own estimate of what feedback misses: 1 is unbiased wherever the guess is, 0 "
        "is feedback alone, which makes no guess.",
    )

    @model_validator(mode="after")
    def _feedback_suits(self) -> Self:
        if self.feedback != "none" and self.output_gradient == "guess":
            raise ValueError("output_gradient is guess; with feedback it is exact: leave it out")
        if self.feedback != "none" and self.draws == "antithetic":
            raise ValueError("draws is antithetic, a control that gains nothing; with feedback leave it out")
        if self.feedback != "none" and not self.correction and self.tangents > 1:
            raise ValueError(
                f"tangents is {self.tangents}; with feedback and correction 0 no guess is made: set correction, or "
                "leave tangents out"
            )
        no_use: dict[str, str] = {}
        if self.feedback_learning in ("fixed", "none"):
            why = f"with feedback_learning {self.feedback_learning} nothing is learned: leave it out"
            no_use = dict.fromkeys(("feedback_rate", "feedback_every"), why)
        elif self.feedback_learning == "bootstrap":
            no_use = {"feedback_every": "feedback_learning bootstrap takes no tangents: leave it out"}
        if self.feedback == "none":
            names = ("correction", "feedback_learning", "feedback_rate", "feedback_every", "feedback_layers")
            no_use = dict.fromkeys(names, "it is of feedback: set feedback, or leave it out")
        for name, why in no_use.items():
            value = getattr(self, name)
            if value != EngineOptions.model_fields[name].default:
                raise ValueError(
                    f"{name} is {value:g}; {why}" if isinstance(value, float) else f"{name} is {value}; {why}"
                )
        return self


@cache
def with_engine_options(schema: type[Options]) -> type[Options]:
    """A guess method's schema with EngineOptions. ValueError for a clash."""
    taken = [name for name in EngineOptions.model_fields if name in schema.model_fields]
    if taken:
        raise ValueError(f"option {taken[0]} of {schema.__name__} is the engine's for every guess method; rename it")
    return create_model(schema.__name__, __base__=(EngineOptions, schema), __doc__=schema.__doc__)


def _misread(path: tuple[str | int, ...], given: object, taken: object) -> Iterator[InitErrorDetails]:
    """Where a number or a truth value was made of something that is none, in `given` and the lists within."""
    if isinstance(taken, bool | int | float):
        if isinstance(given, str) or isinstance(given, bool) != isinstance(taken, bool):
            kind = "bool_type" if isinstance(taken, bool) else "int_type" if isinstance(taken, int) else "float_type"
            yield InitErrorDetails(type=kind, loc=path, input=given)
    elif isinstance(given, list | tuple) and isinstance(taken, list | tuple):
        for index, (one, made) in enumerate(zip(given, taken, strict=False)):
            yield from _misread((*path, index), one, made)
