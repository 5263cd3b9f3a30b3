"""The moments of a method at one state of a network, over several batches: what is shown and written down."""

from collections.abc import Sequence
from dataclasses import dataclass

from fgcli.diagnostics.exact import exact_moments
from fgcli.diagnostics.monte_carlo import deviations, draw_moments, scales
from fgcli.diagnostics.statistics import Deviation, Measured, over_batches, z_score
from fgcli.diagnostics.subject import Subject
from fgcli.diagnostics.weights import weight_moments
from fgcli.gradient.estimator import Batch
from fgcli.gradient.randomness import Streams

METRICS = (
    "bias", "variance", "mse", "covariance_norm", "covariance_rms", "cosine", "cosine_squared", "norm_ratio",
    "effective_rank", "trace",
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

    draws = 0 leaves the draws out. NothingKnown when nothing is left then.
    """
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
                _averaged([{m: Measured(v) for m, v in one[name].metrics.items()} for one in known]),
                _averaged([one[name].metrics() for one in drawn]),
                {metric: z for metric, z in scores.items() if z is not None},
            )
        )
    return layers


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
