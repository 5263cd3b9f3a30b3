"""Reads YAML that people, or an attacker, wrote: plain data and the place of each part of it.

Scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): 1e-3 is a number, `no` is
text, 010 is ten. Tags, aliases and duplicate keys are refused; size, depth and number of parts are bounded, since
PyYAML's time on deep nesting is quadratic.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
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


_VALUE = r"(-?[A-Za-z_0-9./][-+A-Za-z_0-9./]*|\{\}|\[\])"
_KEY = re.compile(r"( {0,9})([A-Za-z_][A-Za-z_0-9]*):(?: " + _VALUE + ")?", re.ASCII)
"""A key with a plain value, an empty one, or none. What YAML has beyond that is not matched."""
_ITEM = re.compile(r"( {0,9})- " + _VALUE, re.ASCII)
"""The same of a list."""
_PLAIN_LINES = 1000


class _Line(NamedTuple):
    """A plain line of YAML. Its place is counted from 1."""

    indent: int
    key: str | None
    """None in a list."""
    text: str | None
    """Of the value, where there is one."""
    value: Scalar
    column: int
    """Of the value."""

    def made(self) -> object:
        """The value; a new one where it can be changed."""
        return {} if self.text == "{}" else [] if self.text == "[]" else self.value


@lru_cache(4096)  # the recipes of a sweep's runs have most lines in common
def _line(line: str) -> _Line | None:
    """None for one that is not plain."""
    found = _KEY.fullmatch(line) or _ITEM.fullmatch(line)
    if found is None:
        return None
    key, text = found[2] if found.re is _KEY else None, found[found.re.groups]
    if key in _WORDS or (text is not None and len(text) > MAX_DIGITS):
        return None
    return _Line(len(found[1]), key, text, None if text is None else scalar(text), found.start(found.re.groups) + 1)


def _plain(text: str) -> Document | None:
    """The same as PyYAML makes of it, 50 times as fast, of what fg writes as a recipe.

    That is: nested keys with plain values, or lists of such. None for any other text, be it sound or not.
    """
    lines = text.removesuffix("\n").split("\n")
    if len(lines) > _PLAIN_LINES:
        return None
    data: dict[str, object] = {}
    levels: list[tuple[int, dict[str, object], Path]] = [(0, data, ())]
    values: dict[Path, Position] = {(): Position(1, 1)}
    keys: dict[Path, Position] = {}
    opened: tuple[str, Path] | None = None  # a key whose mapping or list begins in the next line
    items: tuple[int, list[object], Path] | None = None  # the list that the line before is in
    for number, line in enumerate(lines, start=1):
        if (found := _line(line)) is None:
            return None
        level, mapping, path = levels[-1]
        if found.key is None:
            if opened is not None and found.indent >= level:
                items = found.indent, [], opened[1]
                mapping[opened[0]] = items[1]
                values[opened[1]] = Position(number, found.indent + 1)
                opened = None
            if opened is not None or items is None or found.indent != items[0]:
                return None
            values[(*items[2], len(items[1]))] = Position(number, found.column)
            items[1].append(found.made())
            continue
        items = None
        if opened is not None:
            if found.indent <= level:
                return None
            inner: dict[str, object] = {}
            mapping[opened[0]] = inner
            levels.append((found.indent, inner, opened[1]))
            values[opened[1]] = Position(number, found.indent + 1)
        while found.indent < levels[-1][0]:
            levels.pop()
        level, mapping, path = levels[-1]
        if found.indent != level or found.key in mapping:
            return None
        place = (*path, found.key)
        keys[place] = Position(number, found.indent + 1)
        opened = (found.key, place) if found.text is None else None
        if found.text is not None:
            mapping[found.key] = found.made()
            values[place] = Position(number, found.column)
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
