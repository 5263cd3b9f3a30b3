"""Beginning a run, and taking one up again: all checks first, then the run directory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fgcli.errors import UsageError
from fgcli.extend.registry import Registry
from fgcli.files import read_json
from fgcli.recipe import Recipe, Section, Source, dump, read_recipe, resolve
from fgcli.training import run_directory
from fgcli.training.assembly import assemble, settle
from fgcli.training.environment import describe_environment
from fgcli.training.loop import Training
from fgcli.training.reporter import Reporter
from fgcli.training.run_directory import RunDirectory

_NAMES: tuple[Section, ...] = ("method", "dataset", "model", "optimizer")


def begin(recipe: Recipe, out: Path | None, registry: Registry, reporter: Reporter) -> Training:
    """A new run in `out`, or in a fresh folder under ./runs. UsageError before anything is written."""
    assembly = assemble(settle(recipe, registry), registry)
    run = run_directory.create(out, _label(recipe))
    with _released_on_error(run):
        _say_missing_lock(run, reporter)
        run.describe(dump(assembly.recipe), describe_environment(assembly.device, _plugins(recipe, registry)))
        return Training(assembly, run, reporter)


def resume(
    path: Path, source: Source | None, overrides: Mapping[str, object], registry: Registry, reporter: Reporter
) -> Training:
    """The unfinished run in `path`, at its newest checkpoint. A recipe file and flags may only say what it has.

    UsageError when they say something else, there is no run to resume, or another process is at it; RunError when all
    checkpoints are damaged.
    """
    run = run_directory.open_unfinished(path)
    with _released_on_error(run):
        _say_missing_lock(run, reporter)
        recipe = _recipe_of(run, source, overrides, registry, reporter)
        training = Training(assemble(recipe, registry), run, reporter)
        training.resume()
        return training


@contextmanager
def _released_on_error(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException:
        run.release()
        raise


def _say_missing_lock(run: RunDirectory, reporter: Reporter) -> None:
    if run.lock is not None and run.lock.missing:
        reporter.warned(f"{run.path} cannot be locked ({run.lock.missing}); start no second process on it")


def _recipe_of(
    run: RunDirectory, source: Source | None, overrides: Mapping[str, object], registry: Registry, reporter: Reporter
) -> Recipe:
    """The run's recipe, once the given one and the plugins in use have been held against it."""
    path = run.path
    of_run = read_recipe(run.recipe_file)
    began_with = _recorded_plugins(run)
    try:
        recipe = resolve(of_run, {}, registry)
    except UsageError as error:
        missing = sorted(set(began_with.values()) - set(map(str, registry.origins)))
        if not missing:
            raise
        raise UsageError(f"{error}; the run was begun with {', '.join(missing)}, which is not in use") from error
    for section, origin in _plugins(recipe, registry).items():
        if began_with.get(section, origin) != origin:
            reporter.warned(f"the {section} is now that of {origin}; the run was begun with {began_with[section]}")
    for name in _NAMES:  # before their options are looked at, which are another schema's
        given = overrides.get(name)
        if given is not None:
            _refuse_difference(path, name, getattr(recipe, name), given)
    _refuse_other_recipe(path, recipe, resolve(source or of_run, overrides, registry), registry)
    return recipe


def _plugins(recipe: Recipe, registry: Registry) -> dict[str, str]:
    return {section: str(registry.find(section, getattr(recipe, section)).origin) for section in _NAMES}


def _recorded_plugins(run: RunDirectory) -> dict[str, str]:
    """As the run's environment.json has them; of a file that lacks them or cannot be read, none."""
    try:
        plugins = read_json(run.environment_file)["plugins"]
        return {section: str(plugins[section]) for section in _NAMES}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _label(recipe: Recipe) -> str:
    width = "" if recipe.width is None else f"-w{recipe.width}"
    return f"{recipe.method}-{recipe.dataset}{width}-s{recipe.seed}"


def _refuse_other_recipe(path: Path, recipe: Recipe, given: Recipe, registry: Registry) -> None:
    # What was left to the machine is what the run has.
    settled = settle(given, registry)
    left = {name for name, value in settled.options.items() if value is not None and given.options.get(name) is None}
    update = {
        "device": recipe.device if given.device == "auto" else settled.device,
        "threads": given.threads or recipe.threads,
        "options": settled.options | {name: recipe.options[name] for name in left.intersection(recipe.options)},
    }
    given = given.model_copy(update=update)
    for key in Recipe.model_fields:
        of_run, of_user = getattr(recipe, key), getattr(given, key)
        if isinstance(of_run, dict) and of_run.keys() == of_user.keys():
            for name, value in of_run.items():
                _refuse_difference(path, f"{key}.{name}", value, of_user[name])
        _refuse_difference(path, key, of_run, of_user)


def _refuse_difference(path: Path, key: str, of_run: object, given: object) -> None:
    if of_run == given:
        return
    said = f"{given}, but the run's recipe has {of_run}"
    if len(said) > 200:
        said = "another than that of the run's recipe"
    raise UsageError(f"--resume {path}: {key} is {said}; leave it out, or start a new run")
