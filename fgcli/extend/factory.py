"""A user's own model, named by where it is: `--model package.module:factory`. It needs no plugin.

A factory is a function or class with the parameters `input_shape` and `classes`, for the dataset's, and `generator`
where it draws its weights from one. Its others are the model's options: what is given by name in a recipe, with the
factory's own defaults. To know them the module is imported, and torch with it, when the name is looked up.
"""

import hashlib
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field, TypeAdapter, create_model

from fgcli.errors import UsageError, exception_text, unknown
from fgcli.extend.entry import TARGET, Entry
from fgcli.extend.explain import shown
from fgcli.extend.options import Options
from fgcli.extend.plugins import Origin

GIVEN = ("input_shape", "classes", "generator")
"""What a factory is called with beside its options; without the first two it is none, and is not called."""
_WANTED = "it must be a function or class that takes input_shape and classes and gives an nn.Module"


@dataclass(frozen=True)
class FactoryEntry(Entry):
    """A factory with its options, as an entry of kind "model"."""

    factory: Callable[..., Any] = lambda: None
    takes_generator: bool = False

    def __post_init__(self) -> None:
        """Its name is its place, and checked already."""

    def load(self) -> Callable[..., Any]:
        """What is called as a registered model is: with options, input_shape, classes and a generator."""
        return self._make

    def _make(self, options: Options, input_shape: tuple[int, ...], classes: int, generator: object) -> Any:
        own = {name: getattr(options, name) for name in self.options.model_fields}
        draws = {"generator": generator} if self.takes_generator else {}
        return self.factory(input_shape=input_shape, classes=classes, **draws, **own)


def is_reference(name: str) -> bool:
    """Whether a name is of the form package.module:factory."""
    return TARGET.fullmatch(name) is not None


def find_factory(name: str, where: str = "") -> tuple[Origin, FactoryEntry]:
    """The factory of that name, and the file that it is from. UsageError, with the cause, for what is none.

    `where` is the place in a file, or the flag, that messages begin with. The current folder is searched first, as
    `python -m` does.
    """
    called = f"{where}: model {name!r}" if where else f"model {name!r}"
    path, _, attributes = name.partition(":")
    module = _imported(path, called)
    factory: Any = module
    for attribute in attributes.split("."):
        if not hasattr(factory, attribute):
            of = f"attribute of module {path}" if factory is module else f"attribute of {name}"
            own = [key for key, value in getattr(factory, "__dict__", {}).items() if _is_own(value, path)]
            raise unknown(of, attribute, own, where=where)
        factory = getattr(factory, attribute)
    parameters = _parameters(factory, called)
    summary = (inspect.getdoc(factory) or "A model of the user's own.").splitlines()[0]
    takes_generator = "generator" in parameters
    own = {key: parameter for key, parameter in parameters.items() if key not in GIVEN}
    return _origin(module), FactoryEntry(name, name, summary, _schema(name, own, called), factory, takes_generator)


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
            mend = "run fg in the folder that holds it, or set PYTHONPATH; a file net.py is the module net"
            absent = f"there is no module {cause.name} here, and no plugin of that name in use"
            raise UsageError(f"{called}: {absent}; {mend}") from cause
        raise UsageError(f"{called}: importing {path} failed: {exception_text(cause)}") from cause


def _parameters(factory: object, called: str) -> Mapping[str, inspect.Parameter]:
    """Those that can be given by name. UsageError where it cannot be a factory."""
    if not (inspect.isclass(factory) or inspect.isroutine(factory) or isinstance(factory, partial)):
        raise UsageError(f"{called} is of type {type(factory).__name__}; {_WANTED}")
    try:
        try:
            signature = inspect.signature(factory, eval_str=True)
        except NameError:  # an annotation for type checkers alone
            signature = inspect.signature(factory)
    except (ValueError, TypeError) as cause:
        raise UsageError(f"{called} does not say what it takes; {_WANTED}") from cause
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = {key: one for key, one in signature.parameters.items() if one.kind in named}
    if missing := [key for key in ("input_shape", "classes") if key not in parameters]:
        raise UsageError(f"{called} takes {signature}, without {' and '.join(missing)}; {_WANTED}")
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


def _origin(module: ModuleType) -> Origin:
    """The module and the beginning of its file's sha256, so that a run's record says which text it was."""
    file = getattr(module, "__file__", None)
    try:
        version = f"file {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]}" if file else "of unknown version"
    except OSError:
        version = "of unknown version"
    return Origin(module.__name__, version, module.__name__)
