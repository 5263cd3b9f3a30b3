"""What lies under the paths that a report is asked for: sweeps with the trials they should have, and single runs."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from fgcli.errors import FgError, RunError, UsageError, writable
from fgcli.extend.explain import shown
from fgcli.files import refuse_impossible
from fgcli.recipe import read_recipe
from fgcli.recipe_keys import Recipe
from fgcli.report.runs import Run, Unreadable, run_at
from fgcli.runs.results import Result
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import FailedAttempt, SweepDirectory
from fgcli.runs.timing import Timing, read_timing
from fgcli.runs.tuned import Choice, read_tuned
from fgcli.sweep.plan import PlannedTrial, plan
from fgcli.sweep.read import is_sweep, parse_sweep
from fgcli.sweep.schema import SEED, Sweep
from fgcli.sweep.views import LABEL, as_key

Found = TypeVar("Found")


class State(Enum):
    """How far a trial is."""

    FINISHED = "finished"
    RUNNING = "unfinished"
    MISSING = "not run yet"
    FAILED = "failed"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Trial:
    """One run that is there, or that a sweep says should be."""

    name: str
    source: str
    """The path under which it was found: a sweep's folder, or what was asked for."""
    label: str
    keys: Mapping[str, Any]
    """Keys of its recipe, those of options as `options.NAME`; of one that is not there, what the sweep leads to."""
    run: Run | None
    state: State
    reason: str = ""
    timing: Timing | None = None
    """What was measured of its label and axes, where it was."""

    @property
    def seed(self) -> int:
        return self.keys[SEED]

    def axis(self, name: str) -> Any:
        """Its value on an axis; None where it is not known."""
        return self.label if name == LABEL else self.keys.get(name)

    @property
    def result(self) -> Result | None:
        return self.run.result if self.run and self.state is State.FINISHED else None


class Problem(NamedTuple):
    """Something that could not be read, or was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Source:
    """A sweep's folder with its trials, or a path with single runs."""

    path: str
    sweep: Sweep | None
    trials: tuple[Trial, ...]
    tuned: str = ""
    """What the search of the learning rate found, in words."""


def gather(paths: Iterable[Path]) -> tuple[list[Source], list[Problem]]:
    """Everything under the paths: each a run, a sweep, or a folder of them. UsageError where there is nothing."""
    seen: set[Path] = set()
    asked: list[tuple[Path, list[Path]]] = []
    for path in paths:
        refuse_impossible(path, "path")
        if not os.path.lexists(path):
            raise UsageError(f"{path} does not exist; give run directories, sweep directories, or folders of them")
        asked.append((path, _candidates(path)))
        if not asked[-1][1]:
            raise UsageError(f"{path} holds no run and no sweep")
    found: list[Source | Problem] = []
    for sweeps in (True, False):  # the sweeps first: a trial of theirs that is given by itself, too, is theirs
        for path, candidates in asked:
            found += _read_all([one for one in candidates if _is_sweep(one) is sweeps], path, seen)
    sources = [one for one in found if isinstance(one, Source)]
    problems = [one for one in found if isinstance(one, Problem)]
    if not sources:
        listed = "; ".join(f"{path}: {reason}" for path, reason in problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UsageError(f"nothing to report: {listed}{more}")
    return sources, problems


def _real(folder: Path) -> Path:
    """Without links. Path.resolve raises where they form a circle."""
    return Path(os.path.realpath(folder))


def _read_all(folders: Iterable[Path], asked: Path, seen: set[Path]) -> Iterator[Source | Problem]:
    """What the folders of a path hold. One that was seen before holds nothing new."""
    runs: list[Trial] = []
    for folder in folders:
        if (real := _real(folder)) in seen:
            continue
        seen.add(real)
        if _is_sweep(folder):
            trials = _trial_folders(folder)
            try:
                yield from _read_sweep_folder(folder)
                seen |= {_real(one) for one in trials}
            except FgError as error:
                yield Problem(str(folder), f"{error}{'; its trials stand by themselves' if trials else ''}")
                yield from _read_all(trials, folder, seen)
            continue
        try:
            run = run_at(folder)
        except Unreadable as reason:
            yield Problem(str(folder), str(reason))
            continue
        yield from _environment_problem(run)
        runs.append(Trial(writable(folder.name), str(asked), run.recipe["method"], flat(run.recipe), run, *_state(run)))
    if runs:
        yield Source(writable(str(asked)), None, tuple(runs))


def _is_sweep(folder: Path) -> bool:
    return SweepDirectory(folder).sweep_file.is_file()


def _trial_folders(folder: Path) -> list[Path]:
    """What stands where a sweep's trials do."""
    trials = SweepDirectory(folder).trials
    return _visible(trials) if trials.is_dir() else []


def _visible(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if not one.name.startswith("."))


def _candidates(path: Path) -> list[Path]:
    """The path itself where it is a run or a sweep (or no folder at all), else what it holds."""
    run = RunDirectory(path)
    files = (SweepDirectory(path).sweep_file, run.recipe_file, run.result_file)
    return [path] if not path.is_dir() or any(file.exists() for file in files) else _visible(path)


def _state(run: Run) -> tuple[State, str]:
    if run.result is not None:
        return State.FINISHED, ""
    return State.RUNNING, f"stopped or still running, at step {run.metrics[-1].step if run.metrics else 0}"


def _read_sweep_folder(folder: Path) -> list[Source | Problem]:
    directory = SweepDirectory(folder)
    source = read_recipe(directory.sweep_file)
    if not is_sweep(source):
        raise UsageError(f"{directory.sweep_file.name} has no grid: it is half written, or no sweep's")
    sweep = parse_sweep(source)
    problems: list[Problem] = []

    def read(file: Path, what: Callable[[], Found], otherwise: Found) -> Found:
        try:
            return what() if file.exists() else otherwise
        except RunError as error:
            problems.append(Problem(str(file), str(error)))
            return otherwise

    failures = read(directory.failed_file, directory.failures, dict[str, FailedAttempt]())
    timing = read(directory.timing_file, lambda: read_timing(directory.timing_file), list[Timing]())
    tuned = read(directory.tuned_file, lambda: _words_of(*read_tuned(directory.tuned_file)), "") if sweep.tune else ""
    timed = {_place(row.label, row.axes): row for row in timing}
    trials: list[Trial] = []
    planned_trials = plan(sweep)
    for planned in planned_trials:
        trial = _planned(directory, planned, failures.get(planned.name))
        problems += [Problem(str(directory.trials / planned.name), trial.reason)] * (trial.state is State.UNREADABLE)
        problems += _environment_problem(trial.run)
        trials.append(replace(trial, timing=timed.get(_place(planned.label, planned.axes))))
    trials = _with_defaults(planned_trials, trials)
    names = {trial.name for trial in trials}
    problems += [
        Problem(str(one), f"not among the trials of {directory.sweep_file.name}")
        for one in _trial_folders(folder)
        if one.name not in names
    ]
    return [Source(writable(str(folder)), sweep, tuple(trials), tuned), *problems]


def _planned(directory: SweepDirectory, planned: PlannedTrial, failure: FailedAttempt | None) -> Trial:
    # But for the defaults of the method and the model, which are not known here.
    wanted = flat(planned.overrides)
    keys = {**_defaults(), **wanted}
    trial = Trial(planned.name, str(directory.path), planned.label, keys, None, State.MISSING)
    files = directory.run(planned.name)
    if failure is not None and not files.result_file.exists():
        said = f": {failure.last_lines[-1]}" if failure.last_lines else ""
        trial = replace(trial, state=State.FAILED, reason=f"failed with exit code {failure.exit_code}{said}")
    if not files.recipe_file.exists() and not files.result_file.exists():
        return trial
    try:
        run = run_at(files.path)
        has = flat(run.recipe)
        _refuse_another(has, wanted, directory.recipe_file(planned.name))
    except Unreadable as reason:
        return replace(trial, state=State.UNREADABLE, reason=str(reason))
    state, reason = _state(run)
    if trial.state is State.FAILED:
        state, reason = trial.state, trial.reason
    return replace(trial, keys=has, run=run, state=state, reason=reason)


@cache
def _defaults() -> Mapping[str, Any]:
    """Of a recipe's own keys."""
    return {key: value for key, value in flat(Recipe().model_dump(mode="json")).items() if value is not None}


def _with_defaults(planned: Sequence[PlannedTrial], trials: Sequence[Trial]) -> list[Trial]:
    """Those that have no run, with what their method and model have by default, as another seed's run says it."""
    alike = [_place(one.label, one.axes) for one in planned]
    keys = {key: trial.keys for key, trial in zip(alike, trials, strict=True) if trial.run is not None}
    return [
        trial if trial.run is not None else replace(trial, keys={**keys.get(key, {}), **trial.keys})
        for key, trial in zip(alike, trials, strict=True)
    ]


def _refuse_another(has: Mapping[str, Any], asked: Mapping[str, Any], started_with: Path) -> None:
    """Unreadable where the run's recipe is not what the sweep says; both as `flat` has them."""
    for key, wanted in asked.items():
        found = has.get(key, has.get(key.rpartition(".")[2]))  # width may be given as model_options.width, too
        left_open = wanted is None or isinstance(wanted, Mapping) or (key, wanted) == ("device", "auto")
        if left_open or found == wanted or (key.startswith("options.") and _in_file(started_with, key) == wanted):
            continue
        raise Unreadable(f"its recipe has {key} {shown(found)}, the sweep {shown(wanted)}")


def _in_file(recipe: Path, key: str) -> Any:
    """A key of a recipe's file, which names files that a run's own recipe has the content of; None if not there."""
    try:
        return flat(read_recipe(recipe).data).get(key)
    except FgError:
        return None


def _words_of(by: str, choices: Sequence[Choice]) -> str:
    """What the search of the learning rate found, in a sentence."""
    said = "; ".join(
        f"{', '.join([one.label, *(f'{key} {as_key(value)}' for key, value in one.axes.items())])} "
        f"{'none' if one.lr is None else f'{one.lr:g}'}"
        for one in choices
    )
    return f"Learning rates, by the same search for all ({by}): {said}."


def _place(label: str, axes: Mapping[str, Any]) -> object:
    return label, frozenset((key, as_key(value)) for key, value in axes.items() if key != SEED)


def _environment_problem(run: Run | None) -> list[Problem]:
    if run is None or not run.environment_fault:
        return []
    return [Problem(str(run.path), f"{run.environment_fault}; reported without it")]


def flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of a recipe, mappings of options opened: `options.solver`."""
    found: dict[str, Any] = {}
    for key, value in recipe.items():
        found |= {f"{key}.{name}": one for name, one in value.items()} if isinstance(value, Mapping) else {key: value}
    return found
