"""Records: frozen dataclasses that are flat JSON objects on disk, and are checked when they are read.

A field is spelled once, where the class declares it; its type may carry a `Quantity`. Records within a record have
their keys beside its own. Imports no torch.
"""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, NamedTuple, TypeGuard, TypeVar, get_args, get_origin, get_type_hints

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
    for key in _keys(type(record)):
        value = getattr(record, key.name)
        if key.left_out and value == key.default:
            continue
        if key.record is not None:
            content |= as_json(value)
        else:
            content[key.name] = list(value) if isinstance(value, tuple) else value
    return content


def read_record(kind: type[RecordT], content: object, file: Path) -> RecordT:
    """The record in an object of a JSON file; other keys are ignored. RunError for a missing or malformed field."""
    if not isinstance(content, Mapping):
        raise RunError(f"{file} holds {shown(content)} instead of an object")
    values = dict[str, Any]()
    for key in _keys(kind):
        if key.record is not None:
            values[key.name] = read_record(key.record, content, file)
        elif key.name in content:
            values[key.name] = _checked(content[key.name], key, file)
        elif key.default is MISSING:
            raise RunError(f"{file} has no {key.name}")
    return kind(**values)


class _Key(NamedTuple):
    """A field of a record."""

    name: str
    default: object
    kinds: tuple[Any, ...]
    """Of which its value may be."""
    left_out: bool
    """Where it has its default."""
    quantity: Quantity | None
    record: type | None
    """Where it is one itself."""


@cache
def _keys(kind: type) -> tuple[_Key, ...]:
    hints, found = get_type_hints(kind, include_extras=True), list[_Key]()
    for field in fields(kind):  # pyright: ignore[reportArgumentType]
        hint, *marks = get_args(hint) if get_origin(hint := hints[field.name]) is Annotated else (hint,)
        kinds = tuple(get_origin(one) or one for one in (get_args(hint) if isinstance(hint, UnionType) else (hint,)))
        quantity = next((replace(one, key=field.name) for one in marks if isinstance(one, Quantity)), None)
        record = hint if isinstance(hint, type) and is_dataclass(hint) else None
        found.append(_Key(field.name, field.default, kinds, UNLESS_DEFAULT in marks, quantity, record))
    return tuple(found)


def _checked(value: object, key: _Key, file: Path) -> Any:
    if not any(_is_of(value, kind) for kind in key.kinds):
        raise RunError(f"{file} has {shown(value)} as {key.name}")
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


@cache
def quantities(kind: type) -> dict[str, Quantity]:
    """The quantities that a record holds, by key, in the order of its fields."""
    found: dict[str, Quantity] = {}
    for key in _keys(kind):
        if key.record is not None:
            found |= quantities(key.record)
        if key.quantity is not None:
            found[key.name] = key.quantity
    return found


def numbers(record: Any) -> dict[str, float]:
    """The values of the record's quantities that it has, by key."""
    content = as_json(record)
    return {key: content[key] for key in quantities(type(record)) if content.get(key) is not None}


def name_of(field: object) -> str:
    """The key of a field of a record with slots: `name_of(Metrics.train_loss)`."""
    return getattr(field, "__name__")  # noqa: B009
