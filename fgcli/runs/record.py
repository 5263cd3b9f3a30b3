"""Records: frozen dataclasses that are flat JSON objects on disk, and are checked when they are read.

A field is spelled once, where the class declares it; its type may carry a `Quantity`. Records within a record have
their keys beside its own. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

from fgcli.errors import RunError
from fgcli.extend.explain import shown
from fgcli.runs.quantity import Quantity

UNLESS_DEFAULT = object()
"""Marks the type of a field that is left out on disk where it has its default."""
LARGEST = 1e100  # no run measures more; and beyond it means and their squares overflow
RecordT = TypeVar("RecordT")


def as_json(record: Any) -> dict[str, Any]:
    """The record's fields by name, in their order."""
    content: dict[str, Any] = {}
    hints = _hints(type(record), extras=True)
    for field in fields(record):
        value = getattr(record, field.name)
        if value == field.default and UNLESS_DEFAULT in get_args(hints[field.name]):
            continue
        plain = list(value) if isinstance(value, tuple) else value
        content |= as_json(value) if is_dataclass(value) else {field.name: plain}
    return content


def read_record(kind: type[RecordT], content: object, file: Path) -> RecordT:
    """The record in an object of a JSON file; other keys are ignored. RunError for a missing or malformed field."""
    if not isinstance(content, Mapping):
        raise RunError(f"{file} holds {shown(content)} instead of an object")
    hints, values = _hints(kind), dict[str, Any]()
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        hint, name = hints[field.name], field.name
        if is_dataclass(hint):
            values[name] = read_record(hint, content, file)  # pyright: ignore[reportArgumentType]
        elif name in content:
            values[name] = _checked(content[name], hint, name, file)
        elif field.default is MISSING:
            raise RunError(f"{file} has no {name}")
    return kind(**values)


@cache
def _hints(kind: type, *, extras: bool = False) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=extras)


def _checked(value: object, hint: Any, name: str, file: Path) -> Any:
    members = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if not any(_is_of(value, get_origin(member) or member) for member in members):
        raise RunError(f"{file} has {shown(value)} as {name}")
    return tuple(value) if isinstance(value, list) else value


def _is_of(value: object, kind: object) -> bool:
    """Whether JSON has the value for a field of that type."""
    if kind is float or kind is int:
        return is_number(value)
    kinds: dict[object, type] = {str: str, bool: bool, tuple: list, Mapping: Mapping, NoneType: NoneType}
    return isinstance(value, kinds[kind])


def is_number(value: object) -> TypeGuard[int | float]:
    """A finite number whose square is one, too, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def quantities(kind: type) -> dict[str, Quantity]:
    """The quantities that a record holds, by key, in the order of its fields."""
    found: dict[str, Quantity] = {}
    for name, hint in _hints(kind, extras=True).items():
        if is_dataclass(hint):
            found |= quantities(hint)  # pyright: ignore[reportArgumentType]
        for quantity in get_args(hint)[1:]:
            if isinstance(quantity, Quantity):
                found[name] = replace(quantity, key=name)
    return found


def numbers(record: Any) -> dict[str, float]:
    """The values of the record's quantities that it has, by key."""
    content = as_json(record)
    return {key: content[key] for key in quantities(type(record)) if content.get(key) is not None}


def name_of(field: object) -> str:
    """The key of a field of a record with slots: `name_of(Metrics.train_loss)`."""
    return getattr(field, "__name__")  # noqa: B009
