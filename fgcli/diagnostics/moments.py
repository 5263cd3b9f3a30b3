"""The moments of a method at one state of a network, over several batches: what is shown and written down."""

from collections.abc import Sequence
from dataclasses import dataclass

from fgcli.diagnostics.exact import exact_moments
from fgcli.diagnostics.monte_carlo import deviations, draw_moments, scales
from fgcli.diagnostics.predicted import moments_of_prediction, predictions
from fgcli.diagnostics.statistics import Deviation, Measured, over_batches, z_score
from fgcli.diagnostics.subject import Subject
from fgcli.diagnostics.weights import weight_moments
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams
from fgcli.runs.diagnostics import PREDICTION

PREDICTED = tuple(f"{PREDICTION}{name}" for name in ("bias", "variance", "mse", "cosine", "norm_ratio"))
METRICS = (
    "bias", "variance", "mse", "covariance_norm", "covariance_rms", "cosine", "cosine_squared", "norm_ratio",
    "effective_rank", "trace", *PREDICTED,
)  # fmt: skip


@dataclass(frozen=True)
class LayerMoments:
    """Of one layer, by metric, averaged over the batches."""

    layer: str
    exact: dict[str, Measured]
    monte_carlo: dict[str, Measured]
    z: dict[str, float]
    """How far the draws are from the exact value, in standard errors; over all batches together."""


class NothingKnown(ValueError):
    """Neither exact moments nor draws: the message says what to do."""


def moments(subject: Subject, batches: Sequence[Batch], draws: int, streams: Streams) -> list[LayerMoments]:
    """Of the guesses of every site's output gradient: exactly where the method is linear in its noise, and from draws.

    draws = 0 leaves the draws out. NothingKnown when nothing is left then. Where feedback predicts the gradients, the
    moments of the prediction are beside them; they are the estimate's own where no guess is made.
    """
    predicted = _of_predictions(subject, batches)
    if not subject.correction:
        return [LayerMoments(name, some, {}, {}) for name, some in predicted.items()]
    exact = [exact_moments(subject, batch) for batch in batches]
    drawn = [draw_moments(subject, batch, draws, of(streams, number)) for number, batch in enumerate(batches) if draws]
    known = [one for one in exact if one is not None]
    if not known and not drawn:
        raise NothingKnown("its moments are not known exactly; give --draws above 0")
    layers = []
    for name in (known or drawn)[0]:
        found: dict[str, list[Deviation]] = {}
        for ours, theirs in zip(known, drawn, strict=False):
            for metric, one in deviations(theirs[name], ours[name]).items():
                found.setdefault(metric, []).append(one)
        size = {metric: max(scales(one[name])[metric] for one in known) for metric in found}
        scores = {metric: z_score(some, size[metric]) for metric, some in found.items()}
        layers.append(
            LayerMoments(
                name,
                _averaged([{m: Measured(v) for m, v in one[name].metrics.items()} for one in known])
                | predicted.get(name, {}),
                _averaged([one[name].metrics() for one in drawn]),
                {metric: z for metric, z in scores.items() if z is not None},
            )
        )
    return layers


def _of_predictions(subject: Subject, batches: Sequence[Batch]) -> dict[str, dict[str, Measured]]:
    """By site; {} without feedback."""
    if subject.guesses is None or subject.guesses.feedback is None:
        return {}
    of_batches = [
        {name: moments_of_prediction(*pair) for name, pair in predictions(subject, one).items()} for one in batches
    ]
    alone = not subject.correction
    return {
        name: _averaged(
            [
                {f"{PREDICTION}{metric}": Measured(value) for metric, value in one[name].items()}
                | {metric: Measured(value) for metric, value in one[name].items() if alone}
                for one in of_batches
            ]
        )
        for name in of_batches[0]
    }


def moments_of_weights(subject: Subject, batches: Sequence[Batch], draws: int, streams: Streams) -> list[LayerMoments]:
    """Of the estimates of every parameter's gradient, from draws of any estimator."""
    drawn = [weight_moments(subject, batch, draws, of(streams, number)) for number, batch in enumerate(batches)]
    return [LayerMoments(name, {}, _averaged([one[name] for one in drawn]), {}) for name in drawn[0]]


def of(streams: Streams, number: int) -> Streams:
    """Streams of a batch's own."""
    return Streams(streams.generator("batch", number).initial_seed())


def _averaged(batches: Sequence[dict[str, Measured]]) -> dict[str, Measured]:
    """By metric that every batch has, in the order of METRICS."""
    shared = [metric for metric in METRICS if batches and all(metric in one for one in batches)]
    return {metric: over_batches([one[metric] for one in batches]) for metric in shared}
