"""What a user names by where it is, without a plugin: a dataset, model, loss or learning-rate schedule of their own.

`--dataset package.module:function`: a function that gives a `fgcli.Dataset`. `--model package.module:factory`: a
function or class with the parameters `input_shape` and `classes`, for the dataset's, and `generator` where it draws its
weights from one. `--lr-schedule package.module:factory`: one with the parameter `optimizer`, and `total_steps` and
`steps_per_epoch` where it needs them; the schedulers of torch.optim.lr_scheduler are such factories. `--loss
package.module:function`: a function whose first two parameters are outputs and targets. All other parameters are
options: what is given by name in a recipe, with the factory's own defaults. To know them the module is imported, and
torch with it, when the name is looked up.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, create_model

from fgcli.errors import UsageError, exception_text, unknown
from fgcli.extend.entry import TARGET, Entry
from fgcli.extend.explain import shown
from fgcli.extend.options import Options
from fgcli.extend.own_code import checksum
from fgcli.extend.plugins import Origin

Kind = Literal["dataset", "model", "loss", "lr_schedule"]


class _Call(NamedTuple):
    """How something of a kind is called."""

    given: tuple[str, ...]
    """What a registered one is called with after its options; one of the user's own has it by name."""
    needed: tuple[str, ...]
    """Parameters without which it is none, and is not called."""
    wanted: str


_CALLS: dict[Kind, _Call] = {
    "dataset": _Call((), (), "it must be a function that gives a fgcli.Dataset"),
    "model": _Call(
        ("input_shape", "classes", "generator"),
        ("input_shape", "classes"),
        "it must be a function or class that takes input_shape and classes and gives an nn.Module",
    ),
    "loss": _Call(("dataset",), (), "it must be a function of outputs and targets"),
    "lr_schedule": _Call(
        ("optimizer", "total_steps", "steps_per_epoch"),
        ("optimizer",),
        "it must be a function or class that takes optimizer and gives a torch.optim.lr_scheduler.LRScheduler",
    ),
}
KINDS = tuple(_CALLS)


@dataclass(frozen=True)
class FactoryEntry(Entry):
    """Something of the user's own, with its options, as an entry of its kind."""

    factory: Callable[..., Any] = lambda: None
    kind: Kind = "model"
    takes: frozenset[str] = frozenset()
    """Which of what its kind is given it has parameters for."""

    def __post_init__(self) -> None:
        """Its name is its place, and checked already."""

    def load(self) -> Callable[..., Any]:
        """What is called as a registered one is: with its options, and what its kind is given."""
        return self._make

    def _make(self, options: Options, *given: object) -> Any:
        own = {name: getattr(options, name) for name in self.options.model_fields}
        if self.kind == "loss":
            return partial(self.factory, **own)
        named = dict(zip(_CALLS[self.kind].given, given, strict=True))
        return self.factory(**{name: value for name, value in named.items() if name in self.takes}, **own)


def is_reference(name: str) -> bool:
    """Whether a name is of the form package.module:factory."""
    return TARGET.fullmatch(name) is not None


def find_factory(kind: Kind, name: str, where: str = "") -> tuple[Origin, FactoryEntry]:
    """The user's own dataset, model, loss or schedule `package.module:attribute`, and the file that it is from.

    The current folder is searched first, as `python -m` does. UsageError with the cause where there is none; it begins
    with `where`, the place in a file or the flag.
    """
    called = f"{where}: {kind} {name!r}" if where else f"{kind} {name!r}"
    module, factory = _found(name, called, where)
    parameters = _parameters(kind, factory, called)
    summary = (inspect.getdoc(factory) or f"A {kind} of the user's own.").splitlines()[0]
    takes = frozenset(_CALLS[kind].given).intersection(parameters)
    own = {key: parameter for key, parameter in parameters.items() if key not in takes}
    file = getattr(module, "__file__", None)
    total = checksum(file) if file else None  # so that a run's record says which text it was
    origin = Origin(module.__name__, f"file {total}" if total else "of unknown version", module.__name__, file or "")
    schema = _schema(name, own, called)
    return origin, FactoryEntry(name, name, summary, schema, factory=factory, kind=kind, takes=takes)


def find_maker(name: str, where: str = "") -> Callable[..., Any] | None:
    """The user's own function `package.module:attribute` that makes a model together with inputs; None for a model's
    factory. UsageError where there is none, or it has other required parameters than a model's factory.
    """
    called = f"{where}: {name!r}" if where else repr(name)
    _, factory = _found(name, called, where)
    signature = inspect.signature(factory) if callable(factory) else None
    if signature is None or set(_CALLS["model"].needed) <= set(signature.parameters):
        return None
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [p.name for p in signature.parameters.values() if p.default is p.empty and p.kind not in variadic]
    if missing := [one for one in required if one != "batch_size"]:
        raise UsageError(
            f"{called} takes {', '.join(missing)}; it must take input_shape and classes, or have no required parameter "
            "and give (model, inputs) or (model, inputs, targets, loss_fn)"
        )
    return factory


def _found(name: str, called: str, where: str) -> tuple[ModuleType, Any]:
    """The module and what it has under that name."""
    path, _, attributes = name.partition(":")
    module = _imported(path, called)
    found: Any = module
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            of = f"attribute of module {path}" if found is module else f"attribute of {name}"
            own = [key for key, value in getattr(found, "__dict__", {}).items() if _is_own(value, path)]
            raise unknown(of, attribute, own, where=where)
        found = getattr(found, attribute)
    return module, found


def _is_own(value: object, path: str) -> bool:
    """Whether a module defines it, or a class in it: an instance has its class's `__module__`."""
    return (inspect.isclass(value) or inspect.isroutine(value)) and value.__module__ == path


def _imported(path: str, called: str) -> ModuleType:
    if (here := os.getcwd()) not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(path)
    except (Exception, SystemExit) as cause:
        if isinstance(cause, ModuleNotFoundError) and cause.name and f"{path}.".startswith(f"{cause.name}."):
            mend = "run fgcli in the folder that holds it, or set PYTHONPATH; a file net.py is the module net"
            absent = f"there is no module {cause.name} here, and no plugin of that name in use"
            raise UsageError(f"{called}: {absent}; {mend}") from cause
        raise UsageError(f"{called}: importing {path} failed: {exception_text(cause)}") from cause


def _parameters(kind: Kind, factory: object, called: str) -> Mapping[str, inspect.Parameter]:
    """Those that can be given by name; without outputs and targets, of a loss. UsageError where it cannot be one."""
    wanted = _CALLS[kind].wanted
    if not (inspect.isclass(factory) or inspect.isroutine(factory) or isinstance(factory, partial)):
        raise UsageError(f"{called} is of type {type(factory).__name__}; {wanted}")
    if kind == "loss" and inspect.isclass(factory):
        raise UsageError(f"{called} is a class; {wanted}")
    try:
        try:
            signature = inspect.signature(factory, eval_str=True)
        except NameError:  # an annotation for type checkers alone
            signature = inspect.signature(factory)
    except (ValueError, TypeError) as cause:
        raise UsageError(f"{called} does not say what it takes; {wanted}") from cause
    all_parameters = list(signature.parameters.values())
    if kind == "loss":
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        if len(all_parameters) < 2 or not all(one.kind in positional for one in all_parameters[:2]):
            raise UsageError(f"{called} takes {signature}; {wanted}")
        del all_parameters[:2]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {one.name: one for one in all_parameters if one.kind in named}
    if missing := [key for key in _CALLS[kind].needed if key not in parameters]:
        raise UsageError(f"{called} takes {signature}, without {' and '.join(missing)}; {wanted}")
    return parameters


def _schema(name: str, parameters: Mapping[str, inspect.Parameter], called: str) -> type[Options]:
    """The options that these parameters are. Those whose type or default no recipe can hold are left at it."""
    fields: dict[str, Any] = {}
    for key, parameter in parameters.items():
        required, kind = parameter.default is inspect.Parameter.empty, _type(parameter)
        if kind is not None and (required or _is_plain(parameter.default)):
            default = ... if required else parameter.default
            fields[key] = (kind, Field(default=default, description=f"Parameter of {name}."))
        elif required:
            allowed = "a parameter without a default must be of a type that a recipe can hold"
            raise UsageError(f"{called} takes {key}, of type {shown(parameter.annotation)}; {allowed}")
    try:
        with warnings.catch_warnings(action="ignore"):  # a name that pydantic has itself, such as `copy`
            return create_model("FactoryOptions", __base__=Options, **fields)
    except Exception as cause:
        raise UsageError(f"{called}: its parameters cannot be options: {exception_text(cause)}") from cause


def _type(parameter: inspect.Parameter) -> Any:
    """What a value must be: the annotation. None where pydantic cannot check that."""
    annotation = parameter.annotation
    if annotation is inspect.Parameter.empty:
        return tuple if isinstance(parameter.default, tuple) else Any  # recipes have lists
    if isinstance(annotation, str):  # that only type checkers understand
        return Any
    try:
        TypeAdapter(annotation)
    except Exception:
        return None
    return annotation


def _is_plain(value: object) -> bool:
    """Whether a recipe can hold it."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or type(value) in (bool, int, float, str)
