"""From options, as recipes check them, to what the core is built with."""

from typing import Any

from fgcli.errors import UsageError
from fgcli.extend.options import EngineOptions, GuessOptions, Options, TangentOptions
from fgcli.extend.registry import Registry
from fgcli.gradient.engine import GuessEstimator
from fgcli.gradient.errors import OptionRefused
from fgcli.gradient.feedback import Feedback, FeedbackRule
from fgcli.gradient.tangents import Tangents


def make_estimator(method: Any, options: Options, registry: Registry) -> GuessEstimator:
    """The estimator of a guess method, by the engine's own options among those of the method.

    What a schema does not declare has its default. TypeError for what is no guess method, OptionRefused for options
    that this one cannot have, UsageError for a rule of feedback that is not registered, or is none.
    """
    of_guesses: dict[str, Any] = {
        name: getattr(options, name) for name in GuessOptions.model_fields if hasattr(options, name)
    }
    if not isinstance(options, EngineOptions):
        return GuessEstimator(method, **of_guesses)
    return GuessEstimator(
        method,
        **of_guesses,
        tangents=tangents_of(options),
        memory=options.memory,
        output_gradient=options.output_gradient or "guess",
        feedback=_feedback_of(options, registry),
    )


def _feedback_of(options: EngineOptions, registry: Registry) -> Feedback | None:
    if options.feedback == "none":
        return None
    rule = registry.find("feedback rule", options.feedback).load()(options)
    if not isinstance(rule, FeedbackRule):
        raise UsageError(f"feedback rule {options.feedback!r} gave {type(rule).__name__}; it must give a FeedbackRule")
    if rule.layers is not None and type(rule).predict is FeedbackRule.predict:
        raise UsageError(f"feedback rule {options.feedback!r} has no `predict`; it needs one unless layers is None")
    if options.feedback_layers not in (1, rule.layers):
        raise OptionRefused(
            f"feedback_layers is {options.feedback_layers}; feedback {options.feedback} passes "
            f"{'all layers' if rule.layers is None else f'{rule.layers} of them'}: leave it out, or use feedback local"
        )
    return Feedback(rule, options.correction)


def tangents_of(options: TangentOptions) -> Tangents:
    """The tangents that the options ask for."""
    return Tangents(options.tangents, options.combine, options.draws, options.shrinkage, options.tangent_chunk)
