"""Entries and their options as listings show them: types in the words of a reader, defaults, meaning. No torch."""

import json
from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import to_jsonable_python

from fgcli.extend.options import Options
from fgcli.extend.plugins import Registered

_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of"}
_NAMES: dict[object, str] = {int: "int", float: "float", bool: "bool", str: "text", NoneType: "none", ...: "..."}


def describe(one: Registered, kind: str) -> dict[str, Any]:
    """An entry as JSON: name, kind, summary, source, target, and a description of each option."""
    entry, origin = one.entry, one.origin
    source = {"distribution": origin.distribution, "version": origin.version, "module": origin.module}
    head = {"name": entry.name, "kind": kind, "summary": entry.summary, "source": source, "target": entry.target}
    return head | {"options": describe_options(entry.options)}


def describe_options(schema: type[Options]) -> list[dict[str, Any]]:
    """Each option as JSON: name, type, whether it must be given, default, description."""
    return [
        {
            "name": name,
            "type": type_text(field.annotation, field.metadata),
            "required": field.is_required(),
            "default": None
            if field.is_required()
            else to_jsonable_python(field.default, fallback=repr, inf_nan_mode="strings"),
            "description": field.description,
        }
        for name, field in schema.model_fields.items()
    ]


def default_text(option: dict[str, Any]) -> str:
    """The default as a recipe spells it."""
    default = option["default"]
    if option["required"]:
        return "(required)"
    return default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)


def type_text(annotation: object, metadata: Iterable[object] = ()) -> str:
    """A type with its bounds: `int (>= 1) | 'rank'`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *own = arguments
        return type_text(inner, [*own, *metadata])
    if origin in (Union, UnionType):
        text = " | ".join(type_text(member) for member in arguments)
    elif origin is Literal:
        text = " | ".join(repr(value) for value in arguments)
    elif arguments:
        text = f"{getattr(origin, '__name__', origin)}[{', '.join(map(type_text, arguments))}]"
    else:
        text = _NAMES.get(annotation) or getattr(annotation, "__name__", str(annotation))
    bounds = ", ".join(bound for item in metadata for bound in _bounds(item))
    return f"{text} ({bounds})" if bounds else text


def _bounds(item: object) -> Iterable[str]:
    # A pydantic Field inside Annotated keeps its bounds in its own metadata.
    for part in getattr(item, "metadata", None) or [item]:
        for attribute, sign in _BOUNDS.items():
            if (bound := getattr(part, attribute, None)) is not None:
                yield f"{sign} {bound:g}" if isinstance(bound, float) else f"{sign} {bound}"
