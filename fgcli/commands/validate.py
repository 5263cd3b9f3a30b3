"""`fgcli recipes validate`: what would stop a recipe's runs, before anything is run. Imports torch."""

from pathlib import Path

import typer

from fgcli.errors import FgError, UsageError
from fgcli.extend.registry import Registry, load_registry
from fgcli.recipe import Source, read_recipe, resolve
from fgcli.recipe_keys import Recipe
from fgcli.recipes import find
from fgcli.shell import command_line
from fgcli.sweep.plan import plan, plan_tuning
from fgcli.sweep.read import is_sweep, parse_sweep, resolve_trial


def validate(names: list[str], plugins: tuple[Path, ...]) -> None:
    """Say what each recipe is, or all that is wrong with it. UsageError where anything is."""
    registry = load_registry(plugins)
    faults: list[str] = []
    for name in names:
        try:
            found, said = _looked_over(name, plugins, registry)
        except UsageError as error:
            found, said = [str(error)], ""
        faults += found
        if not found:
            print(said)
    for fault in faults[:-1]:
        typer.echo(f"fg: {UsageError(fault)}", err=True)
    if faults:
        raise UsageError(faults[-1])


def _looked_over(name: str, plugins: tuple[Path, ...], registry: Registry) -> tuple[list[str], str]:
    """What is wrong with a recipe, and what it is."""
    from fgcli.training.dry_run import findings

    source = read_recipe(find(name, where="NAME"))
    if not is_sweep(source):
        recipe = resolve(source, {}, registry)
        then = command_line("train", "--recipe", name, plugins=plugins)
        said = f"{source.name}: a run, method {recipe.method}, {recipe.epochs} epochs; {then}"
        return [f"{source.name}: {one}" for one in findings({"": recipe}, registry)], said
    sweep = parse_sweep(source)
    recipes, refused = trials_of(source, registry)
    found = [f"{source.name}: {one}" for one in findings(recipes, registry)]
    then = command_line("bench", name, plugins=plugins)
    return [*refused, *found], f"{source.name}: a sweep of {len(recipes)} runs, {len(sweep.views)} views; {then}"


def trials_of(source: Source, registry: Registry) -> tuple[dict[str, Recipe], list[str]]:
    """The recipes of a sweep's trials, and why others are refused, each reason once."""
    sweep = parse_sweep(source)
    recipes: dict[str, Recipe] = {}
    refused: dict[str, None] = {}
    trials = [*((one, {}) for one in plan_tuning(sweep)), *((one, sweep.first_lr) for one in plan(sweep))]
    for trial, overrides in trials:
        try:
            recipes[trial.name] = resolve_trial(trial, source, registry, overrides)
        except FgError as error:
            refused[str(error)] = None
    planned = {trial.name for trial in plan(sweep)}
    return {name: recipe for name, recipe in recipes.items() if name in planned}, list(refused)
