"""Tables, .csv and .parquet: a row a sample, a column a number, one column of targets."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy

from fgcli.data.dataset import Dataset
from fgcli.data.options import CsvOptions, TableOptions
from fgcli.data.own import Samples, own_dataset
from fgcli.errors import UsageError, unknown
from fgcli.extend.extras import require

Columns = Mapping[str, numpy.ndarray]


def csv_table(options: CsvOptions, path: Path) -> Dataset:
    """A .csv file, in UTF-8. UsageError that names the line, or the column and row, of what is no sample."""
    return _dataset(options, path, _read_csv)


def parquet_table(options: TableOptions, path: Path) -> Dataset:
    """A .parquet file of numbers and text. UsageError as above."""
    require("parquet", "pyarrow", what=str(path))
    return _dataset(options, path, _read_parquet)


def samples_of(columns: Columns, target: str, inputs: list[str], name: str) -> Samples:
    """Inputs [n, columns] and targets [n]. UsageError for text or a gap among them, with the row, counted from 1."""
    if target in inputs:
        raise UsageError(f"{name}: column {target!r} is the target, and among the inputs; take it out of columns")
    if not inputs:
        raise UsageError(f"{name}: beside the target {target!r} there is no column")
    for key in (*inputs, target):
        values = columns[key]
        if values.dtype.kind == "U":
            if key != target:
                row = next(number for number, one in enumerate(values, 1) if not _is_number(one))
                cell = str(values[row - 1])
                said = f"is text in row {row}, {cell!r}" if cell else f"is empty in row {row}"
                raise UsageError(f"{name}: column {key!r} {said}; inputs must be numbers, or choose columns")
            bad = values == ""
        elif values.dtype.kind not in "biuf":
            raise UsageError(f"{name}: column {key!r} is of type {values.dtype}; it must be numbers or text")
        else:
            bad = ~numpy.isfinite(values)
        if bad.any():
            raise UsageError(f"{name}: column {key!r} has no value in row {int(bad.argmax()) + 1}; fill the gap")
    return Samples(numpy.stack([columns[key].astype(numpy.float64) for key in inputs], 1), columns[target])


def _dataset(options: TableOptions, path: Path, read) -> Dataset:
    tables = [(path, read(path, options))]
    if options.test_file is not None:
        tables.append((Path(options.test_file), read(Path(options.test_file), options)))
    splits: list[Samples] = []
    for file, columns in tables:
        target = options.target or list(tables[0][1])[-1]
        for key in (target, *options.columns):
            if key not in columns:
                raise unknown(f"column of {file}", key, columns, where="--dataset-option")
        inputs = options.columns or [key for key in tables[0][1] if key != target]
        if missing := [key for key in inputs if key not in columns]:
            raise UsageError(f"{file}: there is no column {missing[0]!r}, which {path} has")
        splits.append(samples_of(columns, target, inputs, str(file)))
    return own_dataset(str(path), splits[0], splits[1] if len(splits) > 1 else None, options)


def _read_csv(path: Path, options: CsvOptions) -> Columns:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(file, path, options.delimiter))
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} is no CSV file in UTF-8: {error}") from error
    if not rows:
        raise UsageError(f"{path} is empty; it must hold a row a sample")
    named = not all(map(_is_number, rows[0])) if options.header is None else options.header
    names = rows.pop(0) if named else [str(number) for number in range(len(rows[0]))]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"{path}: two columns are called {twice[0]!r}; rename one")
    if not rows:
        raise UsageError(f"{path} has a line of names and no samples")
    return {name: _column(list(values)) for name, values in zip(names, zip(*rows, strict=True), strict=True)}


def _rows(file, path: Path, delimiter: str) -> Iterator[list[str]]:
    """The lines that are not empty, all of one length."""
    length = 0
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    for row in reader:
        if not row:
            continue
        length = length or len(row)
        if len(row) != length:
            cells = f"{len(row)} {'cell' if len(row) == 1 else 'cells'}, and the first {length}"
            raise UsageError(f"{path}:{reader.line_num}: the line has {cells}; all must have the same")
        yield [cell.strip() for cell in row]
    if length == 1:
        raise UsageError(f"{path}: its lines have one cell; set --dataset-option delimiter, which is {delimiter!r}")


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


def _read_parquet(path: Path, options: TableOptions) -> Columns:
    from pyarrow import ArrowException, parquet  # pyright: ignore[reportMissingImports] # an extra

    try:
        table = parquet.read_table(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    except ArrowException as error:
        raise UsageError(f"{path} is no Parquet file: {error}") from error
    if not len(table):
        raise UsageError(f"{path} has no rows; it must hold a row a sample")
    return {name: arrow_column(table.column(name), f"{path}: column {name!r}") for name in table.column_names}


def arrow_column(column, called: str) -> numpy.ndarray:
    """Numbers or text. UsageError for a gap."""
    if column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise UsageError(f"{called} has no value in row {row}; fill the gap, or leave the row out")
    array = column.to_numpy()
    return array.astype(str) if array.dtype.kind == "O" and isinstance(array[0], str) else array
