"""Reads YAML that people, or an attacker, wrote: plain data and the place of each part of it.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): 1e-3 is a number, `no` is
text, 010 is ten. Tags, aliases and duplicate keys are refused; size, depth and number of parts are bounded, since
PyYAML's time on deep nesting is quadratic.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import NamedTuple

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
    for pattern, convert in ((_INT, int), (_BASED_INT, _based_int), (_FLOAT, float)):
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
    if (document := _plain(text)) is not None:
        return document
    try:
        loader = _Loader(text, name)
        node = loader.get_single_node()
    except yaml.reader.ReaderError as error:
        position = _position_after(text[: error.position])
        raise UsageError(f"{_place(name, position)}: character {chr(error.character)!r} is not allowed") from error
    except yaml.MarkedYAMLError as error:
        raise UsageError(f"{_place(name, _position(error.problem_mark))}: not valid YAML: {_problem(error)}") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # PyYAML lets an escape like "\UFFFFFFFF" through
        raise UsageError(f"{name}: not valid YAML: {error}") from error
    return _Builder(name).document(node)


_LINE = re.compile(r"( {0,9})([A-Za-z_][A-Za-z_0-9]*):(?: (-?[A-Za-z_0-9./][-+A-Za-z_0-9./]*|\{\}|\[\]))?", re.ASCII)
"""A key with a plain value, an empty one, or none. What YAML has beyond that is not matched."""
_PLAIN_LINES = 1000


def _plain(text: str) -> Document | None:
    """The same as PyYAML makes of it, 50 times as fast, of nested keys with plain values: a recipe that fg has written.

    None for any other text, be it sound or not.
    """
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > _PLAIN_LINES:
        return None
    data: dict[str, object] = {}
    levels: list[tuple[int, dict[str, object], Path]] = [(0, data, ())]
    values: dict[Path, Position] = {(): Position(1, 1)}
    keys: dict[Path, Position] = {}
    opened: Path | None = None  # a key whose mapping begins in the next line
    for number, line in enumerate(lines, start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        indent, key, value = len(found[1]), found[2], found[3]
        if opened is not None:
            if indent <= levels[-1][0]:
                return None
            inner: dict[str, object] = {}
            levels[-1][1][opened[-1]] = inner  # pyright: ignore[reportArgumentType]
            levels.append((indent, inner, opened))
            values[opened] = Position(number, indent + 1)
        while indent < levels[-1][0]:
            levels.pop()
        level, mapping, path = levels[-1]
        if indent != level or key in mapping or key in _WORDS:
            return None
        place = (*path, key)
        keys[place] = Position(number, indent + 1)
        opened = place if value is None else None
        if value is not None:
            if len(value) > MAX_DIGITS:
                return None
            mapping[key] = {} if value == "{}" else [] if value == "[]" else scalar(value)
            values[place] = Position(number, found.start(3) + 1)
    return None if opened is not None else Document(data, values, keys)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser up to nodes, with bounds. Nothing is constructed: that is `_Builder`'s."""

    def __init__(self, text: str, name: str) -> None:
        self._file = name
        self._depth = 0
        self._parts = 0
        super().__init__(text)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()
        self._depth += 1
        self._parts += 1
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, "aliases (*name) are not allowed; write the value out")
        if tag := getattr(event, "tag", None):
            self._refuse(event, f"tags are not allowed; remove {tag}")
        if self._depth > MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} levels")
        if self._parts > MAX_PARTS:
            self._refuse(event, f"more than {MAX_PARTS} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, event: yaml.Event, problem: str) -> None:
        raise UsageError(f"{_place(self._file, _position(event.start_mark))}: {problem}")


class _Builder:
    """Nodes to plain data."""

    def __init__(self, name: str) -> None:
        self._file = name
        self._values: dict[Path, Position] = {}
        self._keys: dict[Path, Position] = {}

    def document(self, node: yaml.Node | None) -> Document:
        data = None if node is None else self._value(node, ())
        return Document(data, self._values, self._keys)

    def _value(self, node: yaml.Node, path: Path) -> object:
        self._values[path] = _position(node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(item, (*path, index)) for index, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, object]:
        mapping: dict[str, object] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str):
                raise self._error(key_node, "a key must be text; quote it if it is")
            if key in mapping:
                first = self._keys[*path, key].line
                raise self._error(key_node, f"key {key!r} is given twice, first in line {first}; remove one")
            self._keys[*path, key] = _position(key_node.start_mark)
            mapping[key] = self._value(value_node, (*path, key))
        return mapping

    def _scalar(self, node: yaml.ScalarNode) -> Scalar:
        if node.style is not None:  # quoted, or a block
            return node.value
        try:
            return scalar(node.value)
        except ValueError as error:
            raise self._error(node, str(error)) from error

    def _error(self, node: yaml.Node, problem: str) -> UsageError:
        return UsageError(f"{_place(self._file, _position(node.start_mark))}: {problem}")


def _based_int(text: str) -> int:
    return int(text, 0)


def _place(name: str, position: Position) -> str:
    return f"{name}:{position.line}:{position.column}"


def _position(mark: yaml.Mark | None) -> Position:
    return Position(mark.line + 1, mark.column + 1) if mark else Position(1, 1)


def _position_after(text: str) -> Position:
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _problem(error: yaml.MarkedYAMLError) -> str:
    return f"{error.problem} ({error.context})" if error.context else str(error.problem)
