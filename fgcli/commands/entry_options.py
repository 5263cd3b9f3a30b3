"""Options of what a flag names, as KEY=VALUE, checked against its schema. Imports no torch."""

from collections.abc import Mapping

from pydantic import ValidationError

from fgcli.errors import UsageError, unknown
from fgcli.extend.entry import Entry
from fgcli.extend.explain import first_fault
from fgcli.extend.options import Options


def checked_options(kind: str, entry: Entry, given: Mapping[str, object], flag: str, prefix: str = "") -> Options:
    """The options of an entry with the defaults filled in. UsageError that names the flag; `prefix` stands before the
    option's name there."""
    for key in given:
        if key not in entry.options.model_fields:
            raise unknown(f"option of {kind} {entry.name}", key, entry.options.model_fields, where=flag)
    try:
        return entry.options.model_validate(given)
    except ValidationError as error:
        path, sentence = first_fault(error, given)
        raise UsageError(f"{flag} {prefix}{'.'.join(map(str, path))} {sentence}") from error
