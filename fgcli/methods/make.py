"""From options, as recipes check them, to what the core is built with."""

from typing import Any, Literal

from fgcli.extend.options import EngineOptions, Options, TangentOptions
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.feedback import FeedbackOptions
from fgcli.gradient.tangents import Tangents


def make_estimator(method: Any, options: Options) -> GuessEstimator:
    """The estimator of a guess method, by the engine's own options among those of the method.

    What a schema does not declare has its default. TypeError for what is no guess method, OptionRefused for options
    that this one cannot have.
    """
    uncovered = getattr(options, "uncovered", "perturb")
    if not isinstance(options, EngineOptions):
        return GuessEstimator(method, uncovered=uncovered, tangents=tangents_of(options))
    return GuessEstimator(
        method,
        uncovered=uncovered,
        tangents=tangents_of(options),
        memory=options.memory,
        output_gradient=options.output_gradient or "guess",
        feedback=_feedback_of(options),
    )


def _feedback_of(options: EngineOptions) -> FeedbackOptions | None:
    if options.feedback == "none":
        return None
    return FeedbackOptions(
        options.feedback,
        options.feedback_learning,
        options.feedback_rate,
        options.feedback_every,
        options.correction,
    )


def tangents_of(options: Options) -> Tangents:
    """The tangents that the options ask for; one where they have no such option."""
    if not isinstance(options, TangentOptions):
        return Tangents()
    return Tangents(options.tangents, options.combine, options.draws, options.shrinkage, options.tangent_chunk)


def memory_of(options: Options) -> Literal["store", "replay"]:
    """The `memory` that the options ask for; `store` where they have no such option."""
    return options.memory if isinstance(options, EngineOptions) else "store"
