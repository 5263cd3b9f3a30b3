"""Reads YAML that people, or an attacker, wrote: plain data and the place of each part of it.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): 1e-3 is a number, `no` is
text, 010 is ten. Tags, aliases and duplicate keys are refused; size, depth and number of parts are bounded, since
PyYAML's time on deep nesting is quadratic.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, NamedTuple

import yaml

from fgcli.errors import UsageError
from fgcli.files import read_regular

MAX_BYTES = 256 * 1024
MAX_DEPTH = 32
MAX_PARTS = 10_000
MAX_DIGITS = 100

Scalar = bool | int | float | str | None
Path = tuple[str | int, ...]

_INT = re.compile(r"[-+]?[0-9]+")
_BASED_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Scalar] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((f"{sign}{word}" for sign in ("", "+") for word in (".inf", ".Inf", ".INF")), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


class Position(NamedTuple):
    """A place in a file, counted from 1."""

    line: int
    column: int


@dataclass(frozen=True)
class Document:
    """What a file says: plain data, and by the path to each value where it stands and where its key does."""

    data: object
    values: Mapping[Path, Position]
    keys: Mapping[Path, Position]


def scalar(text: str) -> Scalar:
    """The value of an unquoted scalar. ValueError for a number of absurd length."""
    if text in _WORDS:
        return _WORDS[text]
    for pattern, convert in ((_INT, int), (_BASED_INT, lambda based: int(based, 0)), (_FLOAT, float)):
        if pattern.fullmatch(text):
            if len(text) > MAX_DIGITS:
                raise ValueError(f"a number of {len(text)} characters; at most {MAX_DIGITS} are allowed")
            return convert(text)
    return text


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a small regular UTF-8 file; UsageError for any other."""
    name = os.fspath(path)
    try:
        content = read_regular(FilePath(path), MAX_BYTES)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"{name} cannot be read: {error}; give a YAML file of at most {MAX_BYTES} bytes") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", errors="replace")
        raise UsageError(f"{_place(name, _position_after(before))}: not UTF-8; save the file as UTF-8") from error


def read_yaml(text: str, name: str) -> Document:
    """Parse one document. Every fault is a UsageError "name:line:column: ..."; an empty document is `None`."""
    if _Libyaml is not None and not _LIBYAML_ALONE.search(text):
        with suppress(yaml.YAMLError, ValueError, OverflowError):  # the other, 30 times as slow, says what is wrong
            return _Reader(_Libyaml(text), name).document()
    try:
        return _Reader(yaml.SafeLoader(text), name).document()
    except yaml.reader.ReaderError as error:
        position = _position_after(text[: error.position])
        raise UsageError(f"{_place(name, position)}: character {chr(error.character)!r} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        problem = f"{error.problem} ({error.context})" if error.context else error.problem
        raise UsageError(f"{_place(name, _position(error.problem_mark))}: not valid YAML: {problem}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets an escape like "\UFFFFFFFF" through
        raise UsageError(f"{name}: not valid YAML: {error}") from error


_Libyaml: Any = getattr(yaml, "CSafeLoader", None)  # PyYAML may have been built without it
_LIBYAML_ALONE = re.compile(r"[\t\ufeff?]|[|>][-+0-9]*#")
"""What libyaml takes where PyYAML's own parser does not: [a?, b], say, or a comment right behind a |."""


class _Reader:
    """A parser's events to plain data, with bounds. UsageError for what is not allowed."""

    def __init__(self, parser: Any, name: str) -> None:
        self._next: Callable[[], Any] = parser.get_event
        self._file = name
        self._parts = 0
        self._values: dict[Path, Position] = {}
        self._keys: dict[Path, Position] = {}

    def document(self) -> Document:
        data = None
        self._next()  # the stream begins
        if isinstance(self._next(), yaml.DocumentStartEvent):
            data = self._value(self._next(), (), 1)
            self._next()  # the document ends
            if not isinstance(event := self._next(), yaml.StreamEndEvent):
                fault = "but found another document (expected a single document in the stream)"
                raise self._error(event, f"not valid YAML: {fault}")
        return Document(data, self._values, self._keys)

    def _value(self, event: Any, path: Path, depth: int) -> object:
        self._check(event, depth)
        self._values[path] = _position(event.start_mark)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        items: list[object] = []
        while not isinstance(event := self._next(), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, object]:
        mapping: dict[str, object] = {}
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            self._check(event, depth + 1)
            key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
            if not isinstance(key, str):
                raise self._error(event, "a key must be text; quote it if it is")
            if key in mapping:
                first = self._keys[*path, key].line
                raise self._error(event, f"key {key!r} is given twice, first in line {first}; remove one")
            self._keys[*path, key] = _position(event.start_mark)
            mapping[key] = self._value(self._next(), (*path, key), depth + 1)
        return mapping

    def _check(self, event: Any, depth: int) -> None:
        self._parts += 1
        if isinstance(event, yaml.AliasEvent):
            raise self._error(event, "aliases (*name) are not allowed; write the value out")
        if event.tag:
            raise self._error(event, f"tags are not allowed; remove {event.tag}")
        if depth > MAX_DEPTH:
            raise self._error(event, f"nested deeper than {MAX_DEPTH} levels")
        if self._parts > MAX_PARTS:
            raise self._error(event, f"more than {MAX_PARTS} values")

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        if event.style:  # quoted, or a block
            return event.value
        try:
            return scalar(event.value)
        except ValueError as error:
            raise self._error(event, str(error)) from error

    def _error(self, event: yaml.Event, problem: str) -> UsageError:
        return UsageError(f"{_place(self._file, _position(event.start_mark))}: {problem}")


def _place(name: str, position: Position) -> str:
    return f"{name}:{position.line}:{position.column}"


def _position(mark: yaml.Mark | None) -> Position:
    return Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)


def _position_after(text: str) -> Position:
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))
