"""A document as data: CSV with a line for each cell or point, and JSON. Imports no torch."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from fgcli.errors import writable
from fgcli.files import to_json
from fgcli.report.document import Cell, Column, Document, Figure, Point, Row, Series, Table
from fgcli.report.statistics import Mean

SCHEMA = 1
COLUMNS = (
    "section", "item", "panel", "label", "axes", "value", "x_name", "x", "mean", "low", "high", "n", "missing", "best",
    "baseline", "difference", "difference_low", "difference_high", "p", "p_corrected", "pairs", "ratio",
    "reference_name", "reference", "prediction_low", "prediction_high", "inside", "machines", "runs",
)  # fmt: skip


def as_csv(document: Document) -> str:
    """One line for every cell of a table and every point of a figure, in one set of columns; empty: it has none.

    Low and high are the ends of 95 % intervals; of two runs (n or pairs is 2) their numbers. Numbers are those of the
    runs, unrounded and unscaled.
    """
    out = io.StringIO()
    writer: csv.DictWriter[str] = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for section in document.sections:
        for item in section.items:
            for record in _records(item):
                whole = {"section": section.title, "item": item.title, **record}
                writer.writerow({key: _csv_text(value) for key, value in whole.items()})
    return out.getvalue()


def as_json(document: Document) -> str:
    """The same records with the notes of each table and figure, and what was not reported."""
    sections = [
        {
            "title": section.title,
            "description": section.description,
            "items": [
                {
                    "kind": "table" if isinstance(item, Table) else "figure",
                    "title": item.title,
                    "notes": list(item.notes),
                    "records": list(_records(item)),
                }
                for item in section.items
            ],
        }
        for section in document.sections
    ]
    problems = [{"path": one.path, "reason": one.reason} for one in document.problems]
    return to_json({"schema": SCHEMA, "sections": sections, "problems": problems}) + "\n"


def _csv_text(value: object) -> str:
    """As spreadsheets take it; text that one of them would run as a formula stays text."""
    if isinstance(value, dict):
        value = "; ".join(f"{key}={one}" for key, one in value.items())
    if isinstance(value, list):
        value = "; ".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    text = "" if value is None else repr(value) if isinstance(value, float) else str(value)
    return f"'{text}" if isinstance(value, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _records(item: Table | Figure) -> Iterator[dict[str, Any]]:
    if isinstance(item, Table):
        for row in item.rows:
            for column, cell in zip(item.columns, row.cells, strict=True):
                if cell.trials:
                    yield _of_cell(item, row, column, cell)
        return
    for panel in item.panels:
        for series in panel.series:
            for point in series.points:
                yield {"panel": panel.title, **_of_point(item, series, point)}


def _of_cell(table: Table, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    places = dict(zip(table.row_axes, row.heads, strict=True))
    if table.column_axis is not None and column.axis_value is not None:
        places[table.column_axis] = column.axis_value
    record: dict[str, Any] = {
        "label": places.pop("label", cell.trials[0].label),
        "axes": places,
        "value": column.quantity.key,
        **_mean(cell.mean),
        "missing": [trial.name for trial in cell.missing],
        "best": cell.best,
    }
    if (one := cell.comparison) is not None:
        record |= {"baseline": one.baseline, "ratio": one.ratio}
        if one.difference is not None:
            low, high = one.difference.ends or (None, None)
            record |= {"difference": one.difference.mean, "difference_low": low, "difference_high": high}
            record |= {"p": one.difference.p, "p_corrected": one.p_corrected, "pairs": one.difference.n}
    if (reference := cell.reference) is not None:
        record |= {"reference_name": reference.name, "reference": reference.number, "inside": reference.inside}
        record |= {"prediction_low": reference.low, "prediction_high": reference.high}
    seeds = {seed for seed, _ in cell.numbers}
    runs = [writable(str(t.run.path)) for t in cell.trials if t.seed in seeds and t.run is not None]
    return {**record, "machines": list(cell.machines), "runs": runs}


def _of_point(figure: Figure, series: Series, point: Point) -> dict[str, Any]:
    return {
        "label": series.name,
        "value": figure.y.quantity.key,
        "x_name": figure.x.quantity.key,
        "x": point.x,
        **_mean(point.y),
        "runs": [writable(str(trial.run.path)) for trial in point.trials if trial.run is not None],
    }


def _mean(mean: Mean | None) -> dict[str, Any]:
    if mean is None:
        return {"mean": None, "low": None, "high": None, "n": 0}
    low, high = mean.ends or (None, None)
    return {"mean": mean.mean, "low": low, "high": high, "n": mean.n}
