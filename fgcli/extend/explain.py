"""pydantic's validation errors in the words of this tool: what was given, what is allowed. Imports no torch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from fgcli.errors import one_line

Path = tuple[str | int, ...]

_ALLOWED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "enum": "{expected}",
    "dict_type": "a mapping of names to values",
    "model_type": "a mapping of names to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "string_too_short": "at least {min_length} long",
    "string_too_long": "at most {max_length} long",
}


class Fault(NamedTuple):
    """The first thing wrong: `path` leads to it; `sentence` follows its name ("is 0; it must be at least 1").

    At the root (an empty path, a check of several options together) the sentence stands alone.
    """

    path: Path
    sentence: str


def first_fault(error: ValidationError, data: Mapping[str, object]) -> Fault:
    """What is wrong with `data`, from the error that validating it raised."""
    details = error.errors(include_url=False)
    path = _path_within(data, details[0]["loc"])
    if details[0]["type"] == "missing":
        return Fault(details[0]["loc"], "is missing; it has no default")
    # A union reports each of its members: together they are what is allowed.
    same = [detail for detail in details if _path_within(data, detail["loc"]) == path]
    if len(same) == 1 and same[0]["type"] not in _ALLOWED:
        message = _message(same[0])
        return Fault(path, f"is {shown(_value_at(data, path))}: {message}" if path else message)
    allowed = dict.fromkeys(_allowed(detail) for detail in same)
    return Fault(path, f"is {shown(_value_at(data, path))}; it must be {' or '.join(allowed)}")


def shown(value: object, limit: int = 60) -> str:
    """`value` as a recipe spells it, cut at `limit` characters."""
    text = "empty" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = one_line(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _allowed(detail: Any) -> str:
    template = _ALLOWED.get(detail["type"])
    bounds = {key: _tidy(value) for key, value in detail.get("ctx", {}).items()}
    return template.format_map(bounds) if template else _message(detail)


def _tidy(bound: object) -> object:
    """1 for 1.0: pydantic gives the bound of a float as a float."""
    return int(bound) if isinstance(bound, float) and bound.is_integer() else bound


def _message(detail: Any) -> str:
    """The words of a schema's own validator, without pydantic's "Value error, " before them."""
    cause = detail.get("ctx", {}).get("error")
    return str(cause) if cause is not None else detail["msg"]


def _path_within(data: object, location: Path) -> Path:
    """The part of pydantic's location that lies in the data: the rest names members of a union."""
    path: Path = ()
    for step in location:
        try:
            data = _value_at(data, (step,))
        except (LookupError, TypeError):
            break
        path = (*path, step)
    return path


def _value_at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data
