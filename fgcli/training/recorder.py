"""Diagnostics during a run, without a trace in it: another estimator, other random streams, nothing of the run changed.

What is recorded is of one batch, drawn anew for each record from a stream of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from fgcli.data.dataset import Dataset
from fgcli.diagnostics.batches import draw_batch
from fgcli.diagnostics.moments import LayerMoments, NothingKnown, moments
from fgcli.diagnostics.overlap import marks, sample_overlaps, upstream_jacobians
from fgcli.diagnostics.subject import Subject
from fgcli.errors import UsageError
from fgcli.gradient.errors import ModelRefused
from fgcli.gradient.estimator import Batch
from fgcli.gradient.look import look
from fgcli.gradient.randomness import Streams
from fgcli.recipe_keys import Recipe
from fgcli.runs.diagnostics import COSINE, OF_GUESSES, OVERLAP, PREDICTION, LayerRow, OverlapCurve
from fgcli.training.faults import finite_samples

DRAWS = 16  # for what has no closed form
_DRAWN = {COSINE}


@dataclass(frozen=True)
class Recorder:
    """Measures what was asked for: `names` of fgcli.runs.diagnostics.DIAGNOSTICS."""

    names: Sequence[str]
    subject: Subject
    dataset: Dataset
    batch_size: int
    streams: Streams
    skips: bool = False
    """Whether samples whose loss is not finite are left out of the batch."""

    def record(self, step: int, state: dict[str, Tensor]) -> dict[str, LayerRow]:
        """By layer, after `step` updates, given the run's estimator state."""
        self.subject.estimator.load_state({name: tensor.clone() for name, tensor in state.items()})
        subject = replace(self.subject, step=step)
        batch = draw_batch(self.dataset.train_inputs, self.dataset.train_targets, self.batch_size, self.streams, step)
        if self.skips:
            batch = finite_samples(subject.model, subject.loss, batch)
            if len(batch.inputs) == 0:
                return {}
        moments_of: dict[str, dict[str, float | None]] = {}
        if asked := [name for name in self.names if name != OVERLAP]:
            for one in self._moments(subject, batch, asked):
                moments_of[one.layer] = {name: _value(one, name) for name in asked}
        curves: dict[str, OverlapCurve] = {}
        if OVERLAP in self.names:
            overlaps = sample_overlaps(subject.model, subject.loss, batch, "upstream", self.streams.at(step))
            for layer, one in overlaps.items():
                ks = tuple(marks(len(one.overlap)))
                columns = (tuple(float(values[k - 1]) for k in ks) for values in (one.overlap, one.squared))
                curves[layer] = OverlapCurve(ks, *columns)
        return {layer: LayerRow(moments_of.get(layer, {}), curves.get(layer)) for layer in {**moments_of, **curves}}

    def _moments(self, subject: Subject, batch: Batch, asked: Sequence[str]) -> list[LayerMoments]:
        streams = Streams(self.streams.generator("diagnostics-draws", subject.step).initial_seed())
        try:
            return moments(subject, [batch], DRAWS if _DRAWN.intersection(asked) else 0, streams)
        except NothingKnown:
            return moments(subject, [batch], DRAWS, streams)


def make_recorder(recipe: Recipe, subject: Subject, dataset: Dataset, streams: Streams) -> Recorder:
    """The recorder that a recipe asks for. UsageError for what cannot be measured of this method and model."""
    if subject.guesses is None and set(recipe.diagnostics) != {OVERLAP}:
        raise UsageError(
            f"--diagnostics is {','.join(recipe.diagnostics)}, but method {recipe.method} guesses no gradient of a "
            f"layer's output; only {OVERLAP} can be recorded with it"
        )
    feedback = subject.guesses is not None and subject.guesses.feedback is not None
    for name in recipe.diagnostics:
        if name.startswith(PREDICTION) and not feedback:
            raise UsageError(f"--diagnostics has {name}, which is of feedback's prediction: set --feedback, or drop it")
        if name in OF_GUESSES and not subject.correction:
            raise UsageError(
                f"--diagnostics has {name}, which is of a guess; with feedback and correction 0 none is made: set "
                "--correction, or drop it"
            )
    if OVERLAP in recipe.diagnostics:
        try:
            some = dataset.train_inputs[:1]
            upstream_jacobians(subject.model, look(subject.model, some), some)
        except ModelRefused as refusal:
            raise UsageError(f"--diagnostics {OVERLAP}: {refusal}") from refusal
    skips = recipe.on_nonfinite == "skip"
    return Recorder(recipe.diagnostics, subject, dataset, recipe.batch_size, streams, skips)


def _value(moments: LayerMoments, name: str) -> float | None:
    """Exact where known; None where it has no value (a layer whose gradient is 0 has no cosine)."""
    measured = moments.exact.get(name) or moments.monte_carlo.get(name)
    return None if measured is None else measured.mean
