"""Notes on runs that stand side by side and were not made alike. Imports no torch."""

from collections.abc import Iterable, Mapping, Sequence

from fgcli.report.trials import Trial
from fgcli.runs.made_with import made_with, unlike
from fgcli.sweep.views import as_key

LISTED = 6
LONGEST = 48  # letters of a value: a commit with "-dirty" has 46


def unlike_notes(trials: Iterable[Trial], axes: Sequence[str]) -> list[str]:
    """A sentence with all that differs: versions, code and data of all; options among the seeds of each label."""
    present = [(trial, trial.run) for trial in trials if trial.run is not None]
    made = [(f"{one.label}, seed {one.seed}", made_with(run.environment, run.recipe)) for one, run in present]
    said = [_sentence(name, values) for name, values in unlike(made).items()]
    groups: dict[object, list[Trial]] = {}
    for trial, _ in present:
        groups.setdefault((trial.label, *(as_key(trial.axis(axis)) for axis in axes)), []).append(trial)
    for group in groups.values():
        keys = [{key: as_key(value) for key, value in one.keys.items() if key.startswith("options.")} for one in group]
        options = [(f"seed {one.seed}", own) for one, own in zip(group, keys, strict=True)]
        said += [_sentence(f"{group[0].label}: {name}", values) for name, values in unlike(options).items()]
    return _listed("Not made alike", list(dict.fromkeys(said)))


def left_out_notes(trials: Iterable[Trial]) -> list[str]:
    """Which runs' last evaluation leaves samples out, as `--on-nonfinite skip` does."""
    said: list[str] = []
    for trial in trials:
        if trial.run is None or not trial.run.metrics:
            continue
        last = trial.run.metrics[-1].metrics
        splits = (("train", last.train_left_out), ("test", last.test_left_out))
        counts = [f"{count} of {split}" for split, count in splits if count]
        said += [f"{trial.label}, seed {trial.seed} ({' and '.join(counts)})"] if counts else []
    return _listed("Without samples whose loss is not finite", said)


def _listed(what: str, said: Sequence[str]) -> list[str]:
    more = [f"{len(said) - LISTED} more"] if len(said) > LISTED else []
    return [f"{what}: {'; '.join([*said[:LISTED], *more])}."] if said else []


def _sentence(name: str, values: Mapping[str, Sequence[str]]) -> str:
    said = (f"{_cut(value)} ({_first(who)})" for value, who in values.items())
    return f"{name} is {' and '.join(said)}"


def _first(who: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return "; ".join([*who[:3], *([f"{len(who) - 3} more"] if len(who) > 3 else [])])


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
