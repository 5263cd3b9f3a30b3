"""What may stand in a recipe, as Markdown, from the schemas that check it. Imports no torch."""

from collections.abc import Container, Iterable, Sequence

from fgcli.extend.describe import default_text, describe_options
from fgcli.extend.options import Options
from fgcli.recipe_keys import Recipe
from fgcli.runs.quantities import VALUE_KEYS
from fgcli.sweep.schema import Grid, Method, Sweep, Tune
from fgcli.sweep.views import KINDS, Budget, Goal, Value

_SECTIONS: tuple[tuple[str, str, type[Options]], ...] = (
    ("A run", "`fgcli train --recipe`. Other options of methods are in `fgcli methods`.", Recipe),
    ("A sweep", "`fgcli bench`. It has a `grid`, and by that it is one.", Sweep),
    ("grid", "Beside these, every key of a run but `method` may be an axis: a list of values.", Grid),
    ("grid.methods", "An item is a method's name, or a mapping of these and any keys of a run.", Method),
    ("tune", "", Tune),
)
_UNBOUNDED = ", < 9223372036854775808"
"""What 64 bits hold: no bound that a reader needs."""


def schema_text() -> str:
    """Every key of a recipe with its type, default and meaning."""
    parts = [_section(*section) for section in _SECTIONS]
    parts += [_section(f"views: kind {kind}", "", schema) for kind, schema in KINDS.items()]
    parts.append(_section("A value of a view", f"Keys: {', '.join(f'`{key}`' for key in VALUE_KEYS)}.", Value))
    parts += [_section("at", "", Budget), _section("goal", "", Goal)]
    return "\n".join(parts)


def _section(title: str, text: str, schema: type[Options]) -> str:
    return "\n".join([f"### {title}", "", *([text, ""] if text else []), options_table(schema), ""])


def options_table(schema: type[Options], leave_out: Container[str] = ()) -> str:
    """The options of a schema, a row each: name, type, default, meaning."""
    rows = [
        [
            f"`{option['name']}`",
            option["type"].replace(_UNBOUNDED, ""),
            "" if option["required"] or option["default"] == "" else f"`{default_text(option)}`",
            option["description"],
        ]
        for option in describe_options(schema)
        if option["name"] not in leave_out
    ]
    return table(["key", "type", "default", "meaning"], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *lines])
