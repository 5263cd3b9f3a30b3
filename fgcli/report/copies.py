"""Runs that are there twice, as after a copy of a sweep's folder: one of each is reported. Imports no torch."""

from collections.abc import Sequence
from dataclasses import replace

from fgcli.report.runs import Run
from fgcli.report.trials import Problem, Source, State, Trial
from fgcli.runs.results import Metrics, MetricsRow

NOTHING_NEW = "left out, as it says nothing new"


def without_copies(sources: Sequence[Source]) -> tuple[list[Source], list[Problem]]:
    """The sources, each without the runs that repeat one of an earlier source, and what was left out.

    A sweep with such runs is a copy of the earlier one: a trial that one of the two lacks is the other's.
    """
    kept: list[Source] = []
    problems: list[Problem] = []
    for source in sources:
        for number, earlier in enumerate(kept):
            kept[number], source, found = _told_apart(earlier, source)
            problems += found
        kept.append(source)
    return [source for source in kept if source.trials], problems


def _told_apart(earlier: Source, later: Source) -> tuple[Source, Source, list[Problem]]:
    ours, theirs = list(earlier.trials), list(later.trials)
    repeated: list[tuple[Run, Run]] = []
    for trial in later.trials:
        place = next((i for i, one in enumerate(ours) if one.run and trial.run and repeats(one.run, trial.run)), None)
        if place is None:
            continue
        first = ours[place]
        assert first.run is not None
        assert trial.run is not None
        kept, left_out = first.run, trial.run
        if _progress(trial) > _progress(first):
            kept, left_out = left_out, kept
            ours[place] = replace(trial, label=first.label, timing=first.timing or trial.timing)
        theirs.remove(trial)
        repeated.append((kept, left_out))
    if not _is_copy(earlier, later, bool(repeated)):
        reasons = [Problem(str(b.path), f"the same recipe and numbers as {a.path}; {NOTHING_NEW}") for a, b in repeated]
        return replace(earlier, trials=tuple(ours)), replace(later, trials=tuple(theirs)), reasons
    by_name = {trial.name: trial for trial in theirs}
    ours = [by_name.pop(one.name, one) if one.run is None and by_name.get(one.name, one).run else one for one in ours]
    names = {one.name for one in ours}
    theirs = [one for one in by_name.values() if one.run is not None or one.name not in names]
    reason = f"a copy of {earlier.path}; what both have is {NOTHING_NEW}"
    return (replace(earlier, trials=tuple(ours)), replace(later, trials=tuple(theirs)), [Problem(later.path, reason)])


def _is_copy(earlier: Source, later: Source, has_repeats: bool) -> bool:
    """Whether both are of one sweep: of the same trials, as far as both have been asked for them."""
    if earlier.sweep is None or later.sweep is None:
        return False
    seeds = [source.sweep.with_seeds([0]) for source in (earlier, later) if source.sweep]
    no_run = all(trial.run is None for trial in later.trials)
    return seeds[0] == seeds[1] and (has_repeats or no_run)


def repeats(first: Run, second: Run) -> bool:
    """Whether two runs are of one recipe on one machine, with the same numbers as far as both are."""
    both = min(len(first.metrics), len(second.metrics))
    return (
        first.recipe_text == second.recipe_text
        and first.machine == second.machine
        and [*map(_numbers, first.metrics[:both])] == [*map(_numbers, second.metrics[:both])]
    )


def _numbers(row: MetricsRow) -> tuple[int, Metrics]:
    """A row of metrics without the time, in which runs of one recipe differ."""
    return row.step, row.metrics


def _progress(trial: Trial) -> tuple[bool, int]:
    return trial.state is State.FINISHED, len(trial.run.metrics) if trial.run else 0
