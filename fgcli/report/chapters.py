"""Which runs are compared with which: the chapters of a report. Imports no torch.

Sweeps with the same views share a chapter, whose tables hold the methods of all of them. A single run joins the
sweeps that it is comparable with: those whose runs differ from it in nothing but method, options, axes and seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fgcli.files import to_json
from fgcli.recipe_keys import Recipe, section_keys
from fgcli.report.copies import NOTHING_NEW, repeats, without_copies
from fgcli.report.document import axis_text
from fgcli.report.trials import Problem, Source, Trial, flat
from fgcli.runs.diagnostics import MOMENTS, OVERLAP
from fgcli.runs.record import name_of
from fgcli.runs.results import Metrics, Result
from fgcli.sweep.schema import SEED
from fgcli.sweep.views import KINDS, LABEL, AnyView, as_key

# Keys that say how a run is watched and where it is done, and not what it is.
INCIDENTAL = ("device", "threads", "eval_every", "keep_checkpoints", "keep_last", "diagnostics", "diagnostics_every")
# Keys that not every method has: they belong to the label. One that ends in a dot stands for all under it.
OF_THE_METHOD = (*section_keys("method"), "options.")
FEEDBACK = "feedback"

MAIN = ("dataset", "model", "width", "depth", "optimizer", "lr", "epochs", "batch_size")
"""Settings that a reader wants to know also where they are the default ones."""


@dataclass(frozen=True)
class Chapter:
    """Trials that are compared, and the views that show them."""

    title: str
    description: str
    trials: tuple[Trial, ...]
    axes: tuple[str, ...]
    """Keys of the recipe that trials of one label differ in, but the seed."""
    views: tuple[AnyView, ...]
    in_order: bool = False
    """Whether all trials are of one sweep, whose order is kept."""

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(trial.label for trial in self.trials))

    def values(self, axis: str) -> list[object]:
        """The values of an axis, or labels, in the order of the sweep; numbers sorted where there is not one sweep."""
        found = {as_key(trial.axis(axis)): trial.axis(axis) for trial in self.trials}
        numeric = axis != LABEL and not self.in_order and all(type(value) in (int, float) for value in found.values())
        return [found[key] for key in sorted(found, key=float)] if numeric else list(found.values())


def make_chapters(sources: Sequence[Source]) -> tuple[list[Chapter], list[Problem]]:
    """First those of the sweeps, in their order, then one of the single runs that join none; and runs left out."""
    chapters: list[Chapter] = []
    single = [source for source in sources if source.sweep is None]
    joined: set[int] = set()
    copies: list[Problem] = []
    for sweeps in _alike([source for source in sources if source.sweep is not None]):
        ours = [_comparable(source, sweeps) for source in single]
        joined |= {id(trial) for source in ours for trial in source.trials}
        sources, found = without_copies([*sweeps, *_labelled_by_options([source for source in ours if source.trials])])
        copies += found
        chapters.append(_chapter_of_sweeps(sources))
    rest = [replace(one, trials=tuple(t for t in one.trials if id(t) not in joined)) for one in single]
    if any(source.trials for source in rest):
        labelled = _with_own_labels(_labelled_by_options(rest))
        trials = tuple(trial for source in labelled for trial in source.trials)
        rates = _rates(trials)
        axes = _differing(trials, owned=(*OF_THE_METHOD, *(["lr"] if rates else [])))
        description = "\n".join(filter(None, [_alike_in_all(trials), rates]))
        chapters.append(Chapter("Runs", description, trials, axes, _default_views(trials, axes)))
    told_apart = [_without_repeats(chapter) for chapter in chapters]
    left_out = dict.fromkeys([*copies, *(problem for _, problems in told_apart for problem in problems)])
    return [chapter for chapter, _ in told_apart], list(left_out)


def _alike(sources: Sequence[Source]) -> list[list[Source]]:
    """The sweeps by their views."""
    found: dict[str, list[Source]] = {}
    for source in sources:
        if source.sweep is not None:
            views = to_json([view.model_dump(mode="json") for view in source.sweep.views])
            found.setdefault(views, []).append(source)
    return list(found.values())


def _chapter_of_sweeps(of: Sequence[Source]) -> Chapter:
    """Of the sweeps, and of single runs that join them."""
    sources, sweeps = _with_own_labels(of), [source for source in of if source.sweep]
    trials = tuple(trial for source in sources for trial in source.trials)
    grid = dict.fromkeys(axis for source in sweeps if source.sweep for axis in source.sweep.grid.axes)
    owned = (*OF_THE_METHOD, *(name for source in sweeps for name in _owned(source)))
    axes = tuple(dict.fromkeys((*grid, *_differing(trials, owned))))
    first = sweeps[0].sweep
    assert first is not None
    titles = dict.fromkeys(source.sweep.title or source.path for source in sweeps if source.sweep)
    views = tuple(first.views) or _default_views(trials, axes)
    described = [first.description, *(source.tuned for source in sweeps), _alike_in_all(trials)]
    description = "\n".join(filter(None, described))
    return Chapter("; ".join(titles), description, trials, axes, views, in_order=len(sources) == 1)


def _owned(source: Source) -> set[str]:
    """Keys that a sweep gives to single methods, or searches for: they belong to the label, and are no axes."""
    if source.sweep is None:
        return set()
    keys = {key for method in source.sweep.grid.methods for key in flat(method.overrides)}
    return keys | ({"lr"} if source.sweep.tune else set())


def _comparable(source: Source, sweeps: Sequence[Source]) -> Source:
    """The single runs of a source that can stand beside the sweeps'."""

    def fits(trial: Trial) -> bool:
        for other in sweeps:
            theirs = next((one for one in other.trials if one.run is not None), None)
            if theirs is None or other.sweep is None:
                continue
            grid = {key: [as_key(value) for value in values] for key, values in other.sweep.grid.axes.items()}
            free = (*OF_THE_METHOD, SEED, *INCIDENTAL, *_owned(other), *grid)
            within = all(as_key(trial.axis(key)) in values for key, values in grid.items())
            if within and _without(trial.keys, free) == _without(theirs.keys, free):
                return True
        return False

    return replace(source, trials=tuple(trial for trial in source.trials if fits(trial)))


def _labelled_by_options(sources: Sequence[Source]) -> list[Source]:
    """Single runs named by their method, with feedback where they have it, and the options in which they differ."""
    trials = [trial for source in sources for trial in source.trials]
    names: dict[int, str] = {}
    for method in dict.fromkeys(trial.label for trial in trials):
        own = [trial for trial in trials if trial.label == method]
        keys = dict.fromkeys(
            key for trial in own for key in trial.keys if key in OF_THE_METHOD or key.startswith("options.")
        )
        differ = [key for key in keys if len({as_key(trial.axis(key)) for trial in own}) > 1]
        for trial in own:
            on = [FEEDBACK] if trial.axis(FEEDBACK) not in (None, "none") and FEEDBACK not in differ else []
            said = [f"{key.removeprefix('options.')}={as_key(trial.axis(key))}" for key in (*on, *differ)]
            names[id(trial)] = f"{method} {', '.join(said)}".strip()
    return [
        replace(source, trials=tuple(replace(trial, label=names[id(trial)]) for trial in source.trials))
        for source in sources
    ]


def _with_own_labels(sources: Sequence[Source]) -> list[Source]:
    """A label that means something else in an earlier source, or has the same seeds there, gets the source's path."""
    done: list[Source] = []
    for source in sources:
        before = [trial for one in done for trial in one.trials]
        clashing = {ours.label for ours in source.trials for theirs in before if _clash(ours, theirs)}
        trials = (
            replace(trial, label=f"{trial.label} ({source.path})") if trial.label in clashing else trial
            for trial in source.trials
        )
        done.append(replace(source, trials=tuple(trials)))
    return done


def _clash(ours: Trial, theirs: Trial) -> bool:
    if ours.label != theirs.label:
        return False
    shared = ours.keys.keys() & theirs.keys.keys()
    same = {key for key in shared if key in OF_THE_METHOD or key.startswith("options.")}
    return ours.seed == theirs.seed or any(ours.keys[key] != theirs.keys[key] for key in same)


def _without_repeats(chapter: Chapter) -> tuple[Chapter, list[Problem]]:
    """The chapter without runs that repeat another; one that was made on another machine gets a label of its own."""
    first: dict[object, Trial] = {}
    problems: list[Problem] = []
    for trial in chapter.trials:
        for label in (trial.label, f"{trial.label} on {trial.run.machine}" if trial.run else trial.label):
            place = (label, trial.seed, *(as_key(trial.axis(axis)) for axis in chapter.axes))
            other = first.setdefault(place, replace(trial, label=label))
            if other.run is trial.run:
                break
            if other.run and trial.run and other.run.machine == trial.run.machine:
                kept, repeat = other.run, trial.run
                rank = [(one.result is not None, one.is_where_it_was) for one in (kept, repeat)]
                if rank[1] > rank[0]:
                    kept, repeat = repeat, kept
                    first[place] = replace(trial, label=label)
                other_numbers = "left out, though its numbers differ: see with what each was made"
                reason = f"the same recipe as {kept.path}; {NOTHING_NEW if repeats(kept, repeat) else other_numbers}"
                problems.append(Problem(str(repeat.path), reason))
                break
    return replace(chapter, trials=tuple(first.values())), problems


def _differing(trials: Iterable[Trial], owned: Sequence[str]) -> tuple[str, ...]:
    """Keys in which runs that are there differ, but for those that belong to the label.

    An option that has one value for each dataset is left out where the dataset is among them; a model's likewise.
    """
    found: dict[str, set[str]] = {}
    pairs: dict[str, set[tuple[str, str]]] = {}
    for trial in trials:
        if trial.run is not None:
            for key, value in _without(trial.keys, (*owned, SEED, *INCIDENTAL)).items():
                found.setdefault(key, set()).add(as_key(value))
                pairs.setdefault(key, set()).add((as_key(trial.axis(_whose(key))), as_key(value)))
    differ = [key for key, values in found.items() if len(values) > 1]
    return tuple(key for key in differ if _whose(key) not in differ or len(pairs[key]) > len(found[_whose(key)]))


def _whose(option: str) -> str:
    """`dataset` of dataset_options.seed; "" of what is no option."""
    return option.partition("_options.")[0] if "_options." in option else ""


def _alike_in_all(trials: Iterable[Trial]) -> str:
    """A sentence with the settings that all runs share: the main ones, and what is not as it is by default."""
    present = [flat(trial.run.recipe) for trial in trials if trial.run is not None]
    default = flat(Recipe().model_dump(mode="json"))
    own = _without(default, (*OF_THE_METHOD, SEED, *INCIDENTAL))
    said = [
        axis_text(key, value)
        for key in own
        if len({as_key(keys.get(key)) for keys in present}) == 1
        if not isinstance(value := present[0].get(key), bool | None) and (key in MAIN or value != default[key])
    ]
    return f"{'The same in all runs' if len(present) > 1 else 'The run'}: {', '.join(said)}." if said else ""


def _rates(trials: Iterable[Trial]) -> str:
    """Where each label has a learning rate of its own, which then belongs to the label: a sentence with all of them."""
    found: dict[str, set[str]] = {}
    for trial in trials:
        found.setdefault(trial.label, set()).add(as_key(trial.axis("lr")))
    if len(set().union(*found.values())) == 1 or any(len(rates) > 1 for rates in found.values()):
        return ""
    return f"Learning rates: {', '.join(f'{label} {rates.pop()}' for label, rates in found.items())}."


def _without(keys: Mapping[str, object], left_out: Sequence[str]) -> dict[str, object]:
    """The keys but these; one that ends in a dot stands for all options under it."""
    prefixes = tuple(key for key in left_out if key.endswith("."))
    return {key: value for key, value in keys.items() if key not in left_out and not key.startswith(prefixes or "\0")}


def _default_views(trials: Sequence[Trial], axes: Sequence[str]) -> tuple[AnyView, ...]:
    """Where no sweep says what to show: final numbers, curves over epochs, and the diagnostics that were recorded."""
    runs = [trial.run for trial in trials if trial.run is not None]
    layers = (layer for run in runs for row in run.diagnostics for layer in row.layers.values())
    recorded = {name for layer in layers for name in layer.recorded}
    metrics = [row.metrics for run in runs for row in run.metrics]
    scores = ("accuracy", Metrics.train_accuracy, Metrics.test_accuracy)
    if metrics and all(one.test_accuracy is None for one in metrics):
        scores = ("loss", Metrics.train_loss, Metrics.test_loss)
    at_the_end = (*scores[1:], Result.step_ms_median, Result.peak_memory_bytes)
    views: list[dict[str, Any]] = [
        {
            "kind": "table",
            "title": "At the end of training",
            "value": [*map(name_of, at_the_end)],
            "rows": [LABEL, *axes],
        },
        {"kind": "curve", "title": f"Test {scores[0]} over epochs", "y": name_of(scores[2])},
        {"kind": "curve", "title": "Training loss over epochs", "y": name_of(Metrics.train_loss)},
        *(
            {"kind": "curve", "title": f"{name.replace('_', ' ').capitalize()} over epochs, first layer", "y": name}
            for name in MOMENTS
            if name in recorded
        ),
        *([{"kind": "overlap", "title": "Overlap of the gradient with the top-k space"}] * (OVERLAP in recorded)),
    ]
    return tuple(KINDS[view["kind"]].model_validate(view) for view in views)
