"""Beginning a run, and taking one up again: all checks first, then the run directory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from fgcli.data.dataset import Dataset, Tokens
from fgcli.errors import UsageError
from fgcli.extend.factory import is_reference
from fgcli.extend.own_code import own_code
from fgcli.extend.registry import Registry
from fgcli.recipe import Source, dump, flags_of, read_recipe, resolve
from fgcli.recipe_keys import LENGTH, Recipe, Section, section_keys
from fgcli.runs import run_directory
from fgcli.runs.environment import VERSIONS, Environment, Extension
from fgcli.runs.made_with import latest, made_with, unlike
from fgcli.runs.missing_plugins import naming_missing_plugins
from fgcli.runs.run_directory import ModelRecord, RunDirectory
from fgcli.shell import command_line
from fgcli.training.assembly import Assembly, assemble, learning_rates, settle, steps_of
from fgcli.training.checkpoints import text_sum
from fgcli.training.environment import describe_environment, digest
from fgcli.training.loop import Training
from fgcli.training.losses import Objective
from fgcli.training.reporter import Reporter
from fgcli.training.several import Join, agree, alone
from fgcli.training.state import initialise

_NAMES: tuple[Section, ...] = get_args(Section)
_OF_WEIGHTS = ("dataset", "loss", "local_losses", "local_head", "local_groups", "lora")
"""Beside the model's own keys, what says which weights there are and of which shapes."""


def begin(recipe: Recipe, out: Path | None, registry: Registry, reporter: Reporter, join: Join = alone) -> Training:
    """A new run in `out`, or in a fresh folder under ./runs. UsageError before anything is written."""
    settled = settle(recipe, registry)
    processes = join(settled)
    assembly = assemble(settled, registry, processes=processes)
    weights = initialise(assembly)
    agree(assembly, 0)
    if processes.rank:
        return Training(assembly, RunDirectory(Path(processes.share("", assembly.device))), reporter)
    width = "" if recipe.width is None else f"-w{recipe.width}"
    label = f"{recipe.method}-{Path(recipe.dataset).name}{width}-s{recipe.seed}"
    run = _with_needs(run_directory.create(out, label), recipe, registry)
    with run.released_on_error():
        _say_missing_lock(run, reporter)
        run.write_model(model_record(assembly.dataset, assembly.objective))
        run.describe(dump(assembly.recipe), _environment(assembly, registry, weights))
        processes.share(str(run.path), assembly.device)
        return Training(assembly, run, reporter)


def resume(
    path: Path,
    source: Source | None,
    overrides: Mapping[str, object],
    registry: Registry,
    reporter: Reporter,
    join: Join = alone,
) -> Training:
    """The unfinished run in `path`, at its newest checkpoint. A recipe file and flags may only say what it has.

    Flags may give a finished run more epochs, or steps: it is extended. Device and number of threads may be others:
    where anything is that its last bits depend on, this is said. UsageError when something else differs, there is no
    run to resume, or another process is at it; RunError when all checkpoints are damaged, or the disk is full.
    """
    longer = any(overrides.get(key) is not None for key in LENGTH)
    finished = run_directory.check_resumable(path, longer=longer)
    begun = RunDirectory(path).recorded_environment()
    of_run, recipe = _recipe_of(path, source, overrides, registry, longer=finished)
    processes = join(recipe)
    assembly = assemble(recipe, registry, processes=processes)
    if finished:
        _refuse_other_steps(path, of_run, assembly, registry)
    agree(assembly, 0)  # once all have read what the first may write
    if processes.rank:
        training = Training(assembly, RunDirectory(path), reporter)
        training.take_up()
        agree(assembly, training.step)
        return training
    with _with_needs(RunDirectory(path), recipe, registry).telling_how_to_resume():
        run = _with_needs(run_directory.open_unfinished(path, longer=longer), recipe, registry)
    with run.telling_how_to_resume(), run.released_on_error():
        _say_missing_lock(run, reporter)
        training = Training(assembly, run, reporter)
        training.resume()
        agree(assembly, training.step)
        if finished:
            earlier = text_sum(run.recipe_file.read_text(encoding="utf-8"))
            begun = begun.with_extension(Extension(training.step, of_run.epochs, of_run.max_steps, earlier))
            run.extend(dump(recipe), begun)
            training.know_checkpoints()
        _say_what_changed(training, begun, _environment(assembly, registry))
        return training


def _refuse_other_steps(path: Path, of_run: Recipe, assembly: Assembly, registry: Registry) -> None:
    """UsageError unless a finished run would be longer, and its steps so far would have been the same then."""
    _, done = steps_of(of_run, assembly.dataset)
    per_epoch, total = steps_of(assembly.recipe, assembly.dataset)
    if total <= done:
        said = "; it has max_steps, give more --max-steps" if of_run.max_steps else "; give more --epochs"
        raise UsageError(f"--resume {path}: the run has made {done} steps, and shall end after {total}{said}")
    pairs = zip(
        learning_rates(of_run, registry, per_epoch, done, done),
        learning_rates(assembly.recipe, registry, per_epoch, total, done),
        strict=True,
    )
    for step, (was, would_be) in enumerate(pairs):
        if was != would_be:
            raise UsageError(
                f"--resume {path}: lr_schedule {of_run.lr_schedule} depends on the length of the run: a longer one has "
                f"learning rate {would_be[0]:g} after {step} steps, where this one had {was[0]:g}; begin a new run, "
                f"with --init-from {path}, say"
            )


def model_record(dataset: Dataset, objective: Objective) -> ModelRecord:
    """What a network of these takes and gives."""
    step = dataset.preprocessing
    mean, deviation = (tuple(one.tolist()) if one.dim() else one.item() for one in (step.mean, step.deviation))
    labels = not dataset.train_targets.is_floating_point()
    shape, names = dataset.input_shape, dataset.class_names
    tokens = isinstance(step, Tokens)
    columns = dataset.input_names
    return ModelRecord(shape, objective.outputs, dataset.classes, labels, mean, deviation, names, tokens, columns)


def recipe_of(
    path: Path, registry: Registry, sections: Sequence[Section] = _NAMES, overrides: Mapping[str, object] = {}
) -> Recipe:
    """The recipe of a run, `overrides` over it. Sections that are not asked for are left at their defaults.

    UsageError, that says so where a plugin that the run was begun with is not in use.
    """
    directory = RunDirectory(path)
    directory.refuse_own_loop(str(path))
    source = read_recipe(directory.recipe_file)
    left_out = {key for name in _NAMES if name not in sections for key in section_keys(name)}
    kept = {key: value for key, value in source.data.items() if key not in left_out}
    with naming_missing_plugins([(directory, source.data)], registry):
        return resolve(replace(source, data=kept), overrides, registry)


def _with_needs(run: RunDirectory, recipe: Recipe, registry: Registry) -> RunDirectory:
    """The run's directory, which says with what it is resumed."""
    return replace(run, plugins=registry.files, own_code=any(is_reference(getattr(recipe, name)) for name in _NAMES))


def _environment(assembly: Assembly, registry: Registry, weights: str = "") -> Environment:
    return describe_environment(
        assembly.device,
        code=own_code(origin.module for origin in registry.origins),
        plugins={name: str(registry.find(name, getattr(assembly.recipe, name)).origin) for name in _NAMES},
        data=digest(assembly.dataset),
        weights=weights,
        processes=assembly.processes.size,
    )


def _say_missing_lock(run: RunDirectory, reporter: Reporter) -> None:
    if run.lock is not None and run.lock.missing:
        reporter.warned(f"{run.path} cannot be locked ({run.lock.missing}); start no second process on it")


def _say_what_changed(training: Training, begun: Environment, now: Environment) -> None:
    """Warn, and write it down beside where the run was begun, when it goes on elsewhere."""
    if differences := begun.changed(now):
        old, new = (", ".join(f"{name} {pair[side]}" for name, pair in differences.items()) for side in (0, 1))
        training.reporter.warned(
            f"the run was begun with {old} and goes on with {new}: its last bits may differ from those of a run that "
            "was never stopped"
        )
    recipe = training.assembly.recipe.model_dump(mode="json")
    so_far = made_with(begun, recipe)
    changed = unlike([("", latest(so_far)), ("", made_with(now, recipe))])
    for name, (last, new) in changed.items():
        if name in VERSIONS:
            continue
        differences[name] = (last, new)
        if f"module {new.partition(' ')[0]}" not in changed:  # a plugin file's own line says it
            of = "both" if so_far[name] == last else "all of them"
            training.reporter.warned(f"{name} was {so_far[name]} so far, and is {new} from here on: the run is of {of}")
    if differences:
        training.run_directory.write_environment(begun.with_move(training.step, differences))


def _recipe_of(
    path: Path, source: Source | None, overrides: Mapping[str, object], registry: Registry, *, longer: bool
) -> tuple[Recipe, Recipe]:
    """The run's recipe, and the same where it shall go on: on the given device, with the given threads.

    Only where it shall be `longer` may its length differ. UsageError where anything else does.
    """
    of_run = read_recipe(RunDirectory(path).recipe_file)
    recipe = recipe_of(path, registry)
    has_file = source is not None  # what it leaves out has its default
    if source is None:  # without the options of a method, model or dataset that shall be another one
        others: list[Section] = [name for name in _NAMES if overrides.get(name) not in (None, getattr(recipe, name))]
        left_out = {key for name in others for key in section_keys(name)}
        source = replace(of_run, data={key: value for key, value in of_run.data.items() if key not in left_out})
    given = resolve(source, overrides, registry)
    length = {key: getattr(given, key) for key in LENGTH if longer and overrides.get(key) is not None}
    other: set[Section] = {name for name in _NAMES if getattr(given, name) != getattr(recipe, name)}
    there = given if other else _as_the_run(given, recipe, registry)
    place = {"device": there.device, "threads": there.threads}
    may_differ = {*place, *length, *(key for name in other for key in section_keys(name) if key != name)}
    differing = [key for key in Recipe.model_fields if getattr(there, key) != getattr(recipe, key)]
    if refused := [key for key in differing if key not in may_differ]:
        said = "; ".join(_difference(key, getattr(recipe, key), getattr(there, key)) for key in refused)
        left_out = "--recipe" if has_file else "it" if len(refused) == 1 else "them"
        raise UsageError(
            f"--resume {path}: {said}; a run goes on as it was begun, but for --device, --threads and, once it is "
            f"finished, more --epochs or --max-steps: leave {left_out} out, or a new run: "
            + _new_run(path, recipe, given, registry)
        )
    return recipe, recipe.model_copy(update=place | length)


def _as_the_run(given: Recipe, recipe: Recipe, registry: Registry) -> Recipe:
    """A recipe for this machine. What it leaves to the machine is what the run has."""
    settled = settle(given, registry)
    left = {name for name, value in settled.options.items() if value is not None and given.options.get(name) is None}
    update = {
        "device": recipe.device if given.device == "auto" else settled.device,
        "threads": given.threads or recipe.threads,
        "options": settled.options | {name: recipe.options[name] for name in left.intersection(recipe.options)},
    }
    return given.model_copy(update=update)


def _difference(key: str, of_run: Any, given: Any) -> str:
    if isinstance(of_run, dict) and of_run.keys() == given.keys():
        names = [name for name in of_run if of_run[name] != given[name]]
        return "; ".join(_difference(f"{key}.{name}", of_run[name], given[name]) for name in names)
    said = f"{key} is {given}, but the run's recipe has {of_run}"
    return said if len(said) <= 200 else f"{key} is another than that of the run's recipe"


def _new_run(path: Path, recipe: Recipe, new: Recipe, registry: Registry) -> str:
    """The command of a new run, from the weights of the one in `path` where the model is the same."""
    same_model = all(getattr(new, key) == getattr(recipe, key) for key in (*section_keys("model"), *_OF_WEIGHTS))
    weights = ["--init-from", path if new.init_from in (None, recipe.init_from) else new.init_from]
    words = flags_of(new, registry, ("init_from", "device", "threads"))
    own_code = any(is_reference(getattr(new, name)) for name in _NAMES)
    return command_line("train", *(weights if same_model else []), *words, plugins=registry.files, own_code=own_code)
