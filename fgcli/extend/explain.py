"""Options checked against a schema, and pydantic's errors in the words of this tool: what was given, what is allowed.

Imports no torch.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from fgcli.errors import UsageError, one_line, unknown
from fgcli.extend.options import Options

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
    "model_attributes_type": "a mapping of names to values",
    "list_type": "a list",
    "tuple_type": "a list",
    "too_short": "at least {min_length} long",
    "too_long": "at most {max_length} long",
    "string_too_short": "at least {min_length} long",
    "string_too_long": "at most {max_length} long",
}


def first_fault(error: ValidationError, data: Mapping[str, object]) -> tuple[Path, str]:
    """The first thing wrong with `data`, from the error that validating it raised.

    A path that leads to it, and a sentence that follows its name ("is 0; it must be at least 1"). At the root (an empty
    path, a check of several options together) the sentence stands alone.
    """
    details = error.errors(include_url=False)
    path = _path_within(data, details[0]["loc"])
    if details[0]["type"] == "missing":
        return (*path, details[0]["loc"][-1]), "is missing; it has no default"
    # A union reports each of its members: together they are what is allowed.
    same = [detail for detail in details if _path_within(data, detail["loc"]) == path]
    if len(same) == 1 and same[0]["type"] not in _ALLOWED:
        message = _message(same[0])
        return path, f"is {shown(_value_at(data, path))}: {message}" if path else message
    allowed = dict.fromkeys(_allowed(detail) for detail in same)
    return path, f"is {shown(_value_at(data, path))}; it must be {' or '.join(allowed)}"


def shown(value: object, limit: int = 60) -> str:
    """`value` as a recipe spells it, cut at `limit` characters."""
    text = "empty" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    text = one_line(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _allowed(detail: Any) -> str:
    template = _ALLOWED.get(detail["type"])
    bounds: dict[str, Any] = detail.get("ctx", {})  # 1 for 1.0: pydantic gives the bound of a float as a float
    tidy = {key: int(one) if isinstance(one, float) and one.is_integer() else one for key, one in bounds.items()}
    return template.format_map(tidy) if template else _message(detail)


def _message(detail: Any) -> str:
    """The words of a schema's own validator, without pydantic's "Value error, " before them."""
    cause = detail.get("ctx", {}).get("error")
    return str(cause) if cause is not None else detail["msg"]


def _path_within(data: object, location: Path) -> Path:
    """The steps of pydantic's location that lie in the data: the others name members of a union."""
    path: Path = ()
    for step in location:
        try:
            data = _value_at(data, (step,))
        except (LookupError, TypeError):
            continue
        path = (*path, step)
    return path


def _value_at(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data


def checked_options(
    owner: str, schema: type[Options], given: Mapping[str, object], flag: str = "", prefix: str = ""
) -> Options:
    """The options with the defaults filled in. UsageError that begins with the flag; `prefix` stands before the
    option's name there. `owner` is whose options they are: `executor local`."""
    for key in given:
        if key not in schema.model_fields:
            raise unknown(f"option of {owner}", key, schema.model_fields, where=flag)
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        path, sentence = first_fault(error, given)
        name = f"{prefix}{'.'.join(map(str, path))}" if path else f"{owner}:"
        raise UsageError(f"{flag} {name} {sentence}".lstrip()) from error
