"""Looks runs over without running them: what would stop each at its start, all findings at once."""

from collections.abc import Mapping

from fgcli.data.dataset import Dataset
from fgcli.devices import resolve_device
from fgcli.errors import FgError
from fgcli.extend.registry import Registry
from fgcli.files import to_json
from fgcli.gradient.errors import ModelRefused, OptionRefused
from fgcli.recipe_keys import Recipe
from fgcli.training.assembly import assemble, load_dataset, refuse_large_batch, refuse_last_batch
from fgcli.training.state import initialise

SAMPLES = 8
"""Of the batch that a method is bound with."""
# Keys on which no start depends.
_FREE = (
    "seed", "lr", "epochs", "max_steps", "threads", "eval_every", "keep_checkpoints", "keep_last", "on_nonfinite",
    "diagnostics_every", "subspace_every",
)  # fmt: skip


def findings(recipes: Mapping[str, Recipe], registry: Registry) -> list[str]:
    """A line for each fault, with the first run that has it, by its name, and how many more do."""
    looked_at: dict[str, list[str]] = {}
    named: dict[str, list[str]] = {}
    datasets: dict[str, Dataset | str] = {}
    for name, recipe in recipes.items():
        key = to_json({field: value for field, value in recipe.model_dump(mode="json").items() if field not in _FREE})
        if key not in looked_at:
            looked_at[key] = _faults(recipe, registry, datasets)
        for fault in looked_at[key]:
            named.setdefault(fault, []).append(name)
    more = {fault: f" and {len(names) - 1} more" if len(names) > 1 else "" for fault, names in named.items()}
    return [f"{names[0]}{more[fault]}: {fault}" if names[0] else fault for fault, names in named.items()]


def _faults(recipe: Recipe, registry: Registry, datasets: dict[str, Dataset | str]) -> list[str]:
    """Of one run: its device, its batch, and then the first of its parts that does not fit the others."""
    found: list[str] = []
    try:
        resolve_device(recipe.device)
    except FgError as error:
        found.append(str(error))
    dataset = _dataset(recipe, registry, datasets)
    if isinstance(dataset, str):
        return [*found, dataset]
    place = {"device": "cpu"} if found else {}
    size = min(SAMPLES, len(dataset.train_inputs), recipe.batch_size)
    small = recipe.model_copy(update={"batch_size": size, **place})
    for check in (lambda: refuse_large_batch(recipe, dataset), lambda: _start(recipe, small, registry, dataset)):
        try:
            check()
        except (FgError, ModelRefused, OptionRefused) as error:
            found.append(str(error))
    return found


def _start(recipe: Recipe, small: Recipe, registry: Registry, dataset: Dataset) -> None:
    assembly = assemble(small, registry, dataset)
    initialise(assembly)
    refuse_last_batch(recipe, assembly.dataset, assembly.model)


def _dataset(recipe: Recipe, registry: Registry, known: dict[str, Dataset | str]) -> Dataset | str:
    """The data, or why they cannot be had; each once."""
    key = to_json([recipe.dataset, recipe.dataset_options])
    if key not in known:
        try:
            known[key] = load_dataset(recipe, registry)
        except FgError as error:
            known[key] = str(error)
    return known[key]
