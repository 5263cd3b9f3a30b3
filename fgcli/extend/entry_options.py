"""Options of one entry by name, checked against its schema. Imports no torch."""

from collections.abc import Mapping

from pydantic import ValidationError

from fgcli.errors import UsageError, unknown
from fgcli.extend.explain import first_fault
from fgcli.extend.options import Options


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
