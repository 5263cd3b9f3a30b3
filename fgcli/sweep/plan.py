"""The trials of a sweep: which runs there should be, under which names, in which order. Imports no torch."""

import itertools
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from fgcli.sweep.schema import METHODS, SEED, Grid, Method, Sweep
from fgcli.sweep.views import Scalar, spelled
from fgcli.yaml_reader import Path

MAX_TRIALS = 10_000


@dataclass(frozen=True)
class PlannedTrial:
    """One run of a sweep."""

    name: str
    """Unique within the sweep, and harmless as a file name."""
    label: str
    axes: Mapping[str, Scalar]
    """The value of each axis, the seed's among them."""
    overrides: Mapping[str, Any]
    """Keys of a run's recipe: base, axes and method put together."""
    places: Mapping[Path, Path] = field(repr=False)
    """Where in the sweep each of them is from: overrides' paths to the sweep's."""

    @property
    def group(self) -> tuple[str, tuple[tuple[str, Scalar], ...]]:
        """The label, and the axes without the seed: trials that differ in the seed alone."""
        return self.label, tuple((key, value) for key, value in self.axes.items() if key != SEED)


def plan(sweep: Sweep) -> list[PlannedTrial]:
    """Every trial: seed by seed, so that each seed makes a whole table; then axis by axis, and the methods innermost.

    Where the sweep has a search of the learning rate, its outcome is still missing in `overrides`.
    """
    return list(_trials(sweep, {**sweep.grid.axes, SEED: sweep.grid.seed}, {}))


def plan_tuning(sweep: Sweep) -> list[PlannedTrial]:
    """The trials of the search of the learning rate, which is among their axes; none without such a search."""
    if sweep.tune is None:
        return []
    axes = {**sweep.grid.axes, "lr": sweep.tune.lr, SEED: sweep.tune.seed}
    trials = _trials(sweep, axes, {key: ("tune", key) for key in ("lr", SEED)})
    if sweep.tune.epochs is None:
        return list(trials)
    epochs, place = {"epochs": sweep.tune.epochs}, {("epochs",): ("tune", "epochs")}
    return [replace(one, overrides={**one.overrides, **epochs}, places={**one.places, **place}) for one in trials]


def size(grid: Grid) -> int:
    """The number of trials."""
    return len(grid.methods) * len(grid.seed) * prod(len(values) for values in grid.axes.values())


def _trials(
    sweep: Sweep, axes: Mapping[str, Sequence[Scalar]], other_places: Mapping[str, Path]
) -> Iterator[PlannedTrial]:
    """Of axes the last of which is the seed's; those of `other_places` are not from the grid."""
    # In small letters: file systems may not tell large ones from them.
    plain = (unicodedata.normalize("NFKD", label.replace("⊥", "perp")) for label in sweep.labels())  # W̃⊥ as Wperp
    slugs = _distinct([_harmless(text.encode("ascii", "ignore").decode()).lower() or "method" for text in plain])
    parts = {key: _distinct([f"{key}{_harmless(spelled(value))}" for value in values]) for key, values in axes.items()}
    *others, seeds = (range(len(values)) for values in axes.values())
    for seed, *chosen in itertools.product(seeds, *others):
        indices = dict(zip(axes, (*chosen, seed), strict=True))
        point = {key: axes[key][index] for key, index in indices.items()}
        places: dict[Path, Path] = {(key,): (*other_places.get(key, ("grid", key)), i) for key, i in indices.items()}
        of_axes = [parts[key][index] for key, index in indices.items()]
        for number, (method, slug) in enumerate(zip(sweep.grid.methods, slugs, strict=True)):
            overrides, origins = _merged(sweep.base, method, number)
            name = "-".join([slug, *of_axes])
            yield PlannedTrial(name, method.label, point, {**overrides, **point}, {**origins, **places})


def _merged(base: Mapping[str, Any], method: Method, number: int) -> tuple[dict[str, Any], dict[Path, Path]]:
    """The method's keys over those of the base; mappings of options merge key by key."""
    merged: dict[str, Any] = {}
    places: dict[Path, Path] = {}
    for source, prefix in ((base, ("base",)), (method.overrides, ("grid", METHODS, number))):
        for key, value in source.items():
            old = merged.get(key)
            if isinstance(value, Mapping) and isinstance(old, Mapping):
                merged[key] = {**old, **value}
                places |= {(key, inner): (*prefix, key, inner) for inner in value}
            else:
                merged[key] = value
                places[(key,)] = (*prefix, key)
    return merged, places


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number behind each that is taken."""
    made: dict[str, None] = {}
    for name in names:
        tried = (name if number == 1 else f"{name}.{number}" for number in itertools.count(1))
        made[next(one for one in tried if one not in made)] = None
    return list(made)


def _harmless(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text, flags=re.ASCII).strip("-.")[:60]
