"""Tables, .csv and .parquet: a row a sample, a column a number, one column of targets."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from fgcli.data.dataset import Dataset
from fgcli.data.options import CsvOptions, TableOptions
from fgcli.data.own import Samples, own_dataset
from fgcli.errors import UsageError, unknown
from fgcli.extend.extras import require

Columns = Mapping[str, numpy.ndarray]


class Table(NamedTuple):
    """Columns by their names, and in words where each row stands: `line 3` of a file, as an editor counts, `row 2`."""

    columns: Columns
    places: Sequence[str]


def csv_table(options: CsvOptions, path: Path) -> Dataset:
    """A .csv file, in UTF-8. UsageError that names the line, or the column and row, of what is no sample."""
    return _dataset(options, path, _read_samples)


def parquet_table(options: TableOptions, path: Path) -> Dataset:
    """A .parquet file of numbers and text. UsageError as above."""
    return _dataset(options, path, read_parquet)


def samples_of(columns: Columns, target: str, inputs: Sequence[str], name: str, places: Sequence[str] = ()) -> Samples:
    """Inputs [n, columns] and targets [n]. UsageError for text or a gap among them, with its place, or else the row."""
    if target in inputs:
        raise UsageError(f"{name}: column {target!r} is the target, and among the inputs; take it out of columns")
    if not inputs:
        raise UsageError(f"{name}: beside the target {target!r} there is no column")
    numbers = numbers_of(columns, inputs, name, places, fix="choose others by the dataset's option columns")
    return Samples(numbers, _whole(columns, target, name, places))


def numbers_of(
    columns: Columns, names: Sequence[str], name: str, places: Sequence[str] = (), *, fix: str
) -> numpy.ndarray:
    """The columns of these names, [n, columns]. UsageError for text or a gap, as in `samples_of`, with the `fix`."""
    return numpy.stack([_whole(columns, key, name, places, fix=fix).astype(numpy.float64) for key in names], 1)


def _whole(columns: Columns, key: str, name: str, places: Sequence[str], *, fix: str | None = None) -> numpy.ndarray:
    """A column without gaps: of numbers, where there is a `fix` for text, or else of text too."""
    values = columns[key]

    def place(index: int) -> str:
        return places[index] if places else f"row {index + 1}"

    if values.dtype.kind == "U":
        odd = None if fix is None else next((index for index, one in enumerate(values) if not _is_number(one)), 0)
        if odd is not None:
            said = f"is text in {place(odd)}, {str(values[odd])!r}" if values[odd] else f"is empty in {place(odd)}"
            raise UsageError(f"{name}: column {key!r} {said}; inputs must be numbers: {fix}")
        bad = values == ""
    elif values.dtype.kind not in "biuf":
        raise UsageError(f"{name}: column {key!r} is of type {values.dtype}; it must be numbers or text")
    else:
        bad = ~numpy.isfinite(values)
    if bad.any():
        first = int(bad.argmax())
        said = "is infinite" if values.dtype.kind == "f" and numpy.isinf(values[first]) else "has no value"
        value = "value" if values.dtype.kind == "U" else "number"
        raise UsageError(f"{name}: column {key!r} {said} in {place(first)}; give a {value} there, or leave it out")
    return values


def _dataset(options: TableOptions, path: Path, read: Callable[[Path, Any], Table]) -> Dataset:
    tables = [(path, read(path, options))]
    if options.test_file is not None:
        tables.append((Path(options.test_file), read(Path(options.test_file), options)))
    names = list(tables[0][1].columns)
    target = options.target or names[-1]
    inputs = options.columns or [key for key in names if key != target]
    splits: list[Samples] = []
    for file, table in tables:
        for key in (target, *options.columns):
            if key not in table.columns:
                raise unknown(f"column of {file}", key, table.columns, where="--dataset-option")
        if missing := [key for key in inputs if key not in table.columns]:
            raise UsageError(f"{file}: there is no column {missing[0]!r}, which {path} has")
        splits.append(samples_of(table.columns, target, inputs, str(file), table.places))
    made = own_dataset(str(path), splits[0], splits[1] if len(splits) > 1 else None, options)
    return replace(made, input_names=tuple(inputs))


def _read_samples(path: Path, options: CsvOptions) -> Table:
    table = read_csv(path, options)
    if len(table.columns) == 1:
        raise UsageError(
            f"{path}: its lines have one cell; separate cells by {options.delimiter!r}, or set the dataset's "
            "option delimiter"
        )
    return table


def read_csv(path: Path, options: CsvOptions) -> Table:
    """A .csv file. UsageError that names the line of what is none."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(file, path, options.delimiter))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not rows:
        raise UsageError(f"{path} is empty; it must hold a row a sample")
    first = rows[0][1]
    named = not all(map(_is_number, first)) if options.header is None else options.header
    names = rows.pop(0)[1] if named else [str(number) for number in range(len(first))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{path}: two columns are called {twice[0]!r}; rename one")
    if not rows:
        raise UsageError(f"{path} has a line of names and no samples")
    values = zip(*(cells for _, cells in rows), strict=True)
    columns = {name: _column(list(one)) for name, one in zip(names, values, strict=True)}
    return Table(columns, [f"line {line}" for line, _ in rows])


def _rows(file: Iterable[str], path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that are not empty, all of one length, each with its number: a cell may go on over several."""
    length, line = 0, 1
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    try:
        for row in reader:
            if row:
                length = length or len(row)
                if len(row) != length:
                    cells = f"{len(row)} {'cell' if len(row) == 1 else 'cells'}, and the first {length}"
                    raise UsageError(f"{path}:{line}: the line has {cells}; all must have the same")
                yield line, [cell.strip() for cell in row]
            line = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{path}:{line}: no CSV: {error}") from error


def _column(values: list[str]) -> numpy.ndarray:
    """Whole numbers, numbers, or text."""
    if not all(map(_is_number, values)):
        return numpy.array(values, dtype=str)
    try:
        return numpy.array([int(value) for value in values], dtype=numpy.int64)
    except (ValueError, OverflowError):
        return numpy.array([float(value) for value in values])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def read_parquet(path: Path, options: TableOptions) -> Table:
    """A .parquet file. UsageError for what is none, and for a gap."""
    require("parquet", "pyarrow", what=str(path))
    from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports] # an extra

    try:
        path.open("rb").close()  # pyarrow names no reason
        table = parquet.read_table(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ArrowException as error:
        raise UsageError(f"{path} is no Parquet file: {error}") from error
    if not len(table):
        raise UsageError(f"{path} has no rows; it must hold a row a sample")
    columns = {name: arrow_column(table.column(name), f"{path}: column {name!r}") for name in table.column_names}
    return Table(columns, ())


def arrow_column(column, called: str) -> numpy.ndarray:
    """Numbers or text. UsageError for a gap."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise UsageError(f"{called} has no value in row {row}; fill the gap, or leave the row out")
    array = column.to_numpy()
    return array.astype(str) if array.dtype.kind == "O" and isinstance(array[0], str) else array
