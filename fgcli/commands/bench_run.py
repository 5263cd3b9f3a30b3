"""What `fgcli bench` does: plan, search of the learning rate, trials, timing. Imports no torch."""

import logging
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NoReturn

from fgcli.bench.alike import Alike, as_begun, recipe_at, refuse_other_code
from fgcli.bench.executor import Detached, Executor, PlacesTrials
from fgcli.bench.local import LocalExecutor
from fgcli.bench.measuring import refuse_what_cannot_start, time_steps
from fgcli.bench.run import Failure, Job, Watcher, run_jobs
from fgcli.bench.tuning import Group, choose, without_lr
from fgcli.commands.bench_display import BenchDisplay, show_estimate, show_failures
from fgcli.commands.sinks import make_sinks
from fgcli.errors import RunError, UsageError
from fgcli.extend.explain import checked_options
from fgcli.extend.factory import is_reference
from fgcli.extend.registry import load_registry
from fgcli.recipe import Source, parse_assignments
from fgcli.recipe_keys import Recipe
from fgcli.recipes import find
from fgcli.runs.missing_plugins import naming_missing_plugins
from fgcli.runs.run_directory import RunDirectory
from fgcli.runs.sweep_directory import SweepDirectory
from fgcli.runs.tuned import Choice, write_tuned
from fgcli.shell import command_line
from fgcli.sweep.plan import MAX_TRIALS, PlannedTrial, plan, plan_tuning
from fgcli.sweep.read import parse_sweep, read_sweep, resolve_trial, resolve_trials
from fgcli.sweep.schema import Sweep, dump_sweep
from fgcli.sweep.view_checks import check_views
from fgcli.training.interrupts import Interrupted, handled

_log = logging.getLogger("fgcli")


@dataclass(frozen=True)
class Request:
    """The command line."""

    recipe: str
    source: Source | None = None
    """The sweep itself, where `recipe` is no file: the path of what is written of it in its folder."""
    search_only: bool = False
    """Whether to search the learning rate and run nothing with it."""
    out: Path | None = None
    jobs: int | None = None
    threads: int | None = None
    only: tuple[str, ...] = ()
    limit: int | None = None
    seeds: str | None = None
    dry_run: bool = False
    timing: bool = False
    executor: str | None = None
    executor_options: tuple[str, ...] = ()
    sinks: tuple[str, ...] = ()
    sink_options: tuple[str, ...] = ()
    detach: bool = False
    plugins: tuple[Path, ...] = ()
    quiet: bool = False

    @property
    def sink_flags(self) -> tuple[str, ...]:
        """The flags of metric sinks that every trial gets."""
        pairs = (("--sink", self.sinks), ("--sink-option", self.sink_options))
        return tuple(part for name, values in pairs for value in values for part in (name, value))

    def command(self, out: Path, own_code: bool) -> str:
        """The same once more, in the folder `out`."""
        flags: list[object] = ["--out", out]
        for name in ("jobs", "threads", "limit", "seeds"):
            value = getattr(self, name)
            flags += [] if value is None else [f"--{name}", value]
        flags += ["--timing"] * self.timing + ["--quiet"] * self.quiet
        flags += [] if self.executor is None else ["--executor", self.executor]
        for name, values in (("--only", self.only), ("--executor-option", self.executor_options)):
            flags += [part for value in values for part in (name, value)]
        flags += self.sink_flags
        return command_line("bench", self.recipe, *flags, plugins=self.plugins, own_code=own_code)


def run(request: Request) -> None:
    """Run what is missing. Exit code 1 where a trial failed."""
    bench = _Bench(request)
    if request.dry_run:
        bench.estimate()
        return
    command = request.command(bench.directory.path, bench.own_code)
    try:
        with _stoppable(command), bench.directory.locked():
            failures = bench.run()
    except Detached as detached:
        print(f"{bench.directory.path}: {detached}; wait for them by: {command}")
        return
    if failures:
        show_failures(failures)
        raise RunError(f"{len(failures)} of the trials failed; what is in {bench.directory.path} stays")


class _Bench:
    def __init__(self, request: Request) -> None:
        """All that can be refused is refused here, before anything is written."""
        self.request = request
        self._names_of: tuple[Sweep, dict[str, tuple[PlannedTrial, Path]]] | None = None
        self.registry = load_registry(request.plugins)
        make_sinks(self.registry, request.sinks, request.sink_options)  # refuses what it does not know
        file = find(request.recipe, where="RECIPE")
        if request.source is None:
            sweep, self.source = read_sweep(file)
        else:
            sweep, self.source = parse_sweep(request.source), request.source
        self._asked_seeds = sweep.grid.seed if request.seeds is None else parse_seeds(request.seeds)
        places = {"grid": sweep.grid.axes} | {f"method {one.label}": one.overrides for one in sweep.grid.methods}
        if request.threads is not None and (twice := [place for place, given in places.items() if "threads" in given]):
            raise UsageError(f"--threads is given, but {twice[0]} of the recipe has threads; give one of them")
        sweep = sweep.with_methods(self.registry.methods_of_files())
        sweep = sweep.with_seeds(self._asked_seeds).with_threads(request.threads)
        self.directory = SweepDirectory(request.out or Path("runs") / file.stem)
        self.sweep = self._widened(sweep)
        try:
            check_views(self.source, self.sweep)
        except UsageError as error:  # a seed of the recipe that is not among those asked for
            raise UsageError(f"--seeds is {request.seeds!r}: {error}") from error
        self.trials = self._chosen(plan(self.sweep))
        begun = [folder for _, folder in self._begun()]
        with naming_missing_plugins(((RunDirectory(one), recipe_at(one)) for one in begun), self.registry):
            recipes = self._recipes = resolve_trials(self.sweep, self.source, self.registry)
        names = [name for one in recipes.values() for name in (one.dataset, one.model, one.loss, one.lr_schedule)]
        self.own_code = any(map(is_reference, names))
        for warning in refuse_other_code(begun, list(recipes.values()), self.registry, self.directory.path):
            _log.warning(warning)
        self.executor = self._make_executor()
        self._refuse_processes(recipes.values())
        threads = self.sweep.processes * max((recipe.threads or 1 for recipe in recipes.values()), default=1)
        self.placement = self.executor.place(threads) if isinstance(self.executor, PlacesTrials) else None
        if isinstance(self.executor, LocalExecutor):  # elsewhere there may be other packages, and devices
            trials = self._limited(self.trials)
            refuse_what_cannot_start([(one, self._made(one, self.sweep.first_lr)) for one in trials])

    def run(self) -> dict[str, Failure]:
        """Under the folder's lease."""
        self._refuse_others_trials()
        self.sweep = self._widened(self.sweep)
        self.directory.record(dump_sweep(self.sweep), tuning=self.sweep.tune is not None)
        with BenchDisplay(quiet=self.request.quiet) as display:
            watcher = Alike(display, self._begun(), {name: one.group for name, (one, _) in self._named().items()}.get)
            if self.placement is not None:
                display.say(f"{self.directory.path}: {self.placement.said}")
            asked = self._limited(self.trials)
            known = [*asked, *filter(self._is_finished, self.trials)]
            choices = self._tuned({trial.group for trial in known}, display, watcher)
            if self.request.search_only:
                return {}
            pairs = [(trial, self._job(trial, choices)) for trial in asked]
            jobs = [job for _, job in pairs if job is not None and not job.run.is_finished()]
            display.expects(len(jobs))
            failures = run_jobs(jobs, self.executor, self.directory, watcher)
            why = ("every learning rate of the search failed",)
            untuned = {one.name: self._made(one, {"lr": 1.0}) for one, job in pairs if job is None}
            failures |= {name: Failure(job, None, why) for name, job in untuned.items()}
            if self.request.timing:
                trials = [one for one in self.trials if self.sweep.tune is None or one.group in choices]
                timed = [(trial, job) for trial in trials if (job := self._job(trial, choices)) is not None]
                time_steps(timed, self.directory.timing_file, display.say)
            finished = sum(self._is_finished(trial) for trial in plan(self.sweep))
            display.say(f"{self.directory.path}: {finished} of {len(plan(self.sweep))} trials are finished")
        return failures

    def estimate(self) -> None:
        """--dry-run."""
        trials = self._limited(self.trials)
        search = self._search({trial.group for trial in trials})
        pairs = [(trial, self._made(trial, self.sweep.first_lr)) for trial in trials]
        show_estimate(search, pairs, self.placement)

    def _widened(self, sweep: Sweep) -> Sweep:
        """The sweep with the seeds of the folder's beside its own. What was planned there must still be planned."""
        if not self.directory.holds_sweep():
            return sweep
        recorded = read_sweep(self.directory.sweep_file)[0]
        sweep = sweep.with_seeds(sorted({*sweep.grid.seed, *recorded.grid.seed}))
        for what in _differences(sweep, recorded):
            raise UsageError(f"--out {self.directory.path} holds another sweep: {what}; give another folder")
        return sweep

    def _tuned(self, groups: set[Group], display: BenchDisplay, watcher: Watcher) -> dict[Group, Choice]:
        if self.sweep.tune is None:
            return {}
        search = self._search(groups)
        missing = [job for _, job in search if not job.run.is_finished()]
        display.expects(len(missing))
        if missing:
            display.say(f"search of the learning rate: {len(missing)} trials")
        run_jobs(missing, self.executor, self.directory, watcher)
        choices = choose(self.sweep.tune, search)
        write_tuned(self.directory.tuned_file, self.sweep.tune.by, self.sweep.tune.seed, choices.values())
        for choice in choices.values():
            edge = ", at the edge of what was tried: a wider search may find a better one" if choice.at_the_edge else ""
            where = "".join(f", {key} {value}" for key, value in choice.axes.items())
            display.say(f"{choice.label}{where}: lr {choice.lr}{edge}")
        return choices

    def _search(self, groups: set[Any]) -> list[tuple[PlannedTrial, Job]]:
        return [(one, self._made(one, tuning=True)) for one in plan_tuning(self.sweep) if without_lr(one) in groups]

    def _chosen(self, trials: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        """By --seeds and --only. UsageError for a pattern that chooses nothing."""
        found = [trial for trial in trials if trial.axes["seed"] in self._asked_seeds]
        patterns = self.request.only
        for pattern in patterns:
            if not any(_fits(trial, pattern) for trial in found):
                labels = ", ".join(repr(one) if "," in one else one for one in self.sweep.labels())
                raise UsageError(
                    f"--only is {pattern!r}, which no trial is called; labels: {labels}; a name is like {found[0].name}"
                )
        return [trial for trial in found if not patterns or any(_fits(trial, pattern) for pattern in patterns)]

    def _limited(self, trials: Sequence[PlannedTrial]) -> list[PlannedTrial]:
        if self.request.limit is None:
            return list(trials)
        return [trial for trial in trials if not self._is_finished(trial)][: self.request.limit]

    def _is_finished(self, trial: PlannedTrial) -> bool:
        return self.directory.run(trial.name).is_finished()

    def _job(self, trial: PlannedTrial, choices: dict[Group, Choice]) -> Job | None:
        """None where the search found no learning rate."""
        if self.sweep.tune is None:
            return self._made(trial)
        lr = choices[trial.group].lr
        return None if lr is None else self._made(trial, {"lr": lr})

    def _made(self, trial: PlannedTrial, overrides: dict[str, object] | None = None, *, tuning: bool = False) -> Job:
        directory = self.directory
        searched = tuning or (overrides and overrides != self.sweep.first_lr)
        recipe = None if searched else self._recipes.get(trial.name)
        recipe = recipe or resolve_trial(trial, self.source, self.registry, overrides)

        def settled(recipe: Recipe) -> Recipe:
            named = self._named().values() if None in recipe.options.values() else ()
            folders = (folder for one, folder in named if one.label == trial.label)
            return as_begun(recipe, (one for one in folders if RunDirectory(one).recipe_file.exists()))

        return Job(
            name=f"tuning-{trial.name}" if tuning else trial.name,
            recipe=recipe,
            recipe_file=directory.recipe_file(trial.name, tuning=tuning),
            run=directory.run(trial.name, tuning=tuning),
            log=directory.log(trial.name, tuning=tuning),
            plugins=self.request.plugins,
            sinks=self.request.sink_flags,
            processes=self.sweep.processes,
            settled=settled,
        )

    def _named(self) -> dict[str, tuple[PlannedTrial, Path]]:
        """All trials and those of the search, by name, with their run directories."""
        if self._names_of is not None and self._names_of[0] is self.sweep:
            return self._names_of[1]
        search = {
            f"tuning-{one.name}": (one, self.directory.run(one.name, tuning=True).path)
            for one in plan_tuning(self.sweep)
        }
        named = search | {one.name: (one, self.directory.run(one.name).path) for one in plan(self.sweep)}
        self._names_of = (self.sweep, named)
        return named

    def _begun(self) -> list[tuple[str, Path]]:
        """Trials with a run, finished or not, and its directory."""
        return [
            (name, folder) for name, (_, folder) in self._named().items() if RunDirectory(folder).recipe_file.exists()
        ]

    def _refuse_processes(self, recipes: Iterable[Recipe]) -> None:
        """What `fgcli train --processes` would refuse, and what measures one process."""
        place, number = self.source.place(("processes",)), self.sweep.processes
        smallest = min((recipe.batch_size for recipe in recipes), default=number)
        if number > smallest:
            raise UsageError(f"{place}: processes is {number}; it must be at most {smallest}, the samples of a batch")
        if number > 1 and self.request.timing:
            raise UsageError(
                f"{place}: processes is {number}, and --timing measures one process; leave one of them out"
            )

    def _refuse_others_trials(self) -> None:
        """Those of another executor may be under way, where this one cannot tell."""
        for one in self.directory.submissions():
            if one.executor != self.executor_name and (unfinished := one.unfinished()):
                raise UsageError(
                    f"{self.directory.path}: {len(unfinished)} trials were handed to executor {one.executor} (job "
                    f"{one.job or one.name}) and may be under way; go on with --executor {one.executor}, or end that "
                    f"job and remove {self.directory.submission_file(one.name)}"
                )

    @property
    def executor_name(self) -> str:
        return self.request.executor or self.sweep.executor

    def _make_executor(self) -> Executor:
        """Of the flags, and of the recipe where these name no other. UsageError where options do not fit."""
        request, sweep = self.request, self.sweep
        where = "--executor" if request.executor else self.source.place(("executor",))
        one = self.registry.find("executor", self.executor_name, where=where)
        entry = one.entry
        given = parse_assignments(request.executor_options, "--executor-option")
        for flag, name, value in (("--jobs", "jobs", request.jobs), ("--detach", "detach", request.detach or None)):
            if value is None:
                continue
            if name not in entry.options.model_fields:
                raise UsageError(f"{flag} is given, but executor {entry.name} has no option {name}; leave it out")
            if name in given:
                raise UsageError(f"{flag} and --executor-option {name} say the same; give one of them")
            given[name] = value
        in_recipe = sweep.executor_options if self.executor_name == sweep.executor else {}
        owner = f"executor {entry.name}"
        place = self.source.place(("executor_options",))
        checked_options(owner, entry.options, in_recipe, place, "executor_options.")
        options = checked_options(owner, entry.options, {**in_recipe, **given}, "--executor-option")
        try:
            return one.load()(options)
        except (UsageError, RunError):
            raise
        except Exception as cause:
            raise UsageError(f"executor {entry.name} failed: {type(cause).__name__}: {cause}") from cause


def _differences(sweep: Sweep, recorded: Sweep) -> Iterator[str]:
    """In what a sweep is another one than that recorded, but for more seeds."""
    trials = {trial.name: trial for trial in plan(sweep)}
    for old in plan(recorded):
        if (new := trials.get(old.name)) is None:
            yield f"trial {old.name} there is not in the recipe"
            continue
        for key in sorted(old.overrides.keys() | new.overrides.keys()):
            if old.overrides.get(key) != new.overrides.get(key):
                yield f"{key} of trial {old.name} differs"
    if sweep.processes != recorded.processes:
        yield f"processes is {recorded.processes} there"
    if sweep.tune != recorded.tune:
        yield "tune differs"


def _fits(trial: PlannedTrial, pattern: str) -> bool:
    return trial.label == pattern or fnmatchcase(trial.name, pattern)


def parse_seeds(text: str) -> list[int]:
    """`0,1,2`, `0-4` or both: `0-2,7`. UsageError for anything else."""
    seeds: list[int] = []
    for part in text.split(","):
        ends = [end.strip() for end in part.split("-")]
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() and int(end) < 2**63 for end in ends):
            ends = ["1", "0"]  # none
        first, last = int(ends[0]), int(ends[-1])
        seeds += range(first, min(last, first + MAX_TRIALS) + 1) or [-1]
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        allowed = "whole numbers from 0, each once: 0,1,2 or 0-4"
        raise UsageError(f"--seeds is {text!r}; it must be {allowed}")
    return seeds


def _stoppable(command: str) -> AbstractContextManager[None]:
    """Ctrl-C and a polite kill become an error, so that the trials are ended, too."""

    def stop(number: int, _: object) -> NoReturn:
        raise Interrupted(f"stopped; what was finished stays, and the rest is run by: {command}", number)

    in_main = threading.current_thread() is threading.main_thread()
    return handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if in_main else (), stop)
