"""What may stand in a recipe, as Markdown, from the schemas that check it. Imports no torch."""

from collections.abc import Iterable

from fgcli.extend.describe import default_text, describe_options
from fgcli.extend.options import Options
from fgcli.recipe import Recipe
from fgcli.runs.quantities import VALUE_KEYS
from fgcli.sweep.schema import Grid, Method, Sweep, Tune
from fgcli.sweep.views import KINDS, Budget, Value

_SECTIONS: tuple[tuple[str, str, type[Options]], ...] = (
    ("A run", "`fg train --recipe`. Other options of methods are in `fg methods`.", Recipe),
    ("A sweep", "`fg bench`. It has a `grid`, and by that it is one.", Sweep),
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
    parts.append(_section("at", "", Budget))
    return "\n".join(parts)


def _section(title: str, text: str, schema: type[Options]) -> str:
    lines = [f"### {title}", "", *([text, ""] if text else []), "| key | type | default | |", "|---|---|---|---|"]
    for option in describe_options(schema):
        default = "" if option["required"] else f"`{default_text(option)}`" if option["default"] != "" else ""
        lines.append(
            _row([f"`{option['name']}`", option["type"].replace(_UNBOUNDED, ""), default, option["description"]])
        )
    return "\n".join([*lines, ""])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
