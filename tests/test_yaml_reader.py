import contextlib
import math
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fgcli import yaml_reader
from fgcli.errors import UsageError
from fgcli.recipe import dump
from fgcli.recipe_keys import Recipe
from fgcli.yaml_reader import MAX_BYTES, MAX_DEPTH, Position, read_text, read_yaml, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("y", "y"),
        ("1", 1),
        ("-7", -7),
        ("+7", 7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("0b1", "0b1"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.inf", -math.inf),
        (".INF", math.inf),
        ("1e999", math.inf),
        ("nan", "nan"),
        (".", "."),
        ("1.2.3", "1.2.3"),
        ("2020-01-01", "2020-01-01"),
        ("<<", "<<"),
        ("١", "١"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    assert scalar(text) == value
    assert type(scalar(text)) is type(value)


def test_nan() -> None:
    assert math.isnan(scalar(".nan"))  # pyright: ignore[reportArgumentType]


def test_data_and_positions() -> None:
    document = read_yaml("method: wt\noptions:\n  solver: svd\nlist: [1, 'no', \"2\"]\n", "r.yaml")
    assert document.data == {"method": "wt", "options": {"solver": "svd"}, "list": [1, "no", "2"]}
    assert document.values["method",] == Position(1, 9)
    assert document.keys["options", "solver"] == Position(3, 3)
    assert document.values["options", "solver"] == Position(3, 11)
    assert document.values["list", 1] == Position(4, 11)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n"])
def test_an_empty_document_is_none(text: str) -> None:
    assert read_yaml(text, "r.yaml").data is None


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
REFUSED = {
    "duplicate key": ("lr: 1\nlr: 2", "r.yaml:2:1: key 'lr' is given twice, first in line 1; remove one"),
    "duplicate key below": ("a: {b: 1, b: 2}", "r.yaml:1:11: key 'b' is given twice"),
    "python tag": ("a: !!python/object/apply:os.system ['x']", "r.yaml:1:4: tags are not allowed; remove tag:yaml.org"),
    "own tag": ("a: !x 1", "r.yaml:1:4: tags are not allowed; remove !x"),
    "core tag": ("a: !!str 1", "r.yaml:1:4: tags are not allowed"),
    "bare tag": ("a: ! 1", "r.yaml:1:4: tags are not allowed; remove !"),
    "alias": (BOMB, "r.yaml:2:8: aliases (*name) are not allowed; write the value out"),
    "recursive alias": ("&a [*a]", "r.yaml:1:5: aliases"),
    "merge key": ("a: &a {x: 1}\nb:\n  <<: *a", "r.yaml:3:7: aliases"),
    "number as key": ("1: a", "r.yaml:1:1: a key must be text; quote it if it is"),
    "list as key": ("? [a]\n: b", "r.yaml:1:3: a key must be text"),
    "two documents": ("a: 1\n---\nb: 2", "r.yaml:2:1: not valid YAML: but found another document"),
    "open bracket": ("a: [1, 2", "r.yaml:1:9: not valid YAML: expected ',' or ']'"),
    "tab": ("a:\n\t- 1", "r.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
    "colon twice": ("a: b: c", "r.yaml:1:5: not valid YAML: mapping values are not allowed here"),
    "NUL": ("a: 1\nb: x\0y", "r.yaml:2:5: character '\\x00' is not allowed"),
    "escape beyond Unicode": ('a: "\\UFFFFFFFF"', "r.yaml: not valid YAML: "),
    "long number": ("a: " + "9" * 5000, "r.yaml:1:4: a number of 5000 characters; at most 100 are allowed"),
    "long version": ("%YAML 1." + "9" * 5000 + "\n---\na: 1", "r.yaml: not valid YAML: "),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}"):
        read_yaml(text, "r.yaml")


SLOW = {
    "flow levels": ("[" * 100_000, f"r.yaml:1:{MAX_DEPTH + 1}: nested deeper than {MAX_DEPTH} levels"),
    "map levels": ("{a: " * 50_000, "nested deeper"),
    "block levels": ("- " * 100_000, "nested deeper"),
    "key levels": ("? " * 100_000, "a key must be text"),
    "many values": ("[" + "1," * 100_000 + "]", "more than 10000 values"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(20_000)), "more than 10000 values"),
}


@pytest.mark.parametrize(("text", "message"), SLOW.values(), ids=SLOW)
def test_bounds_are_met_early(text: str, message: str) -> None:
    start = time.process_time()
    with pytest.raises(UsageError, match=re.escape(message)):
        read_yaml(text, "r.yaml")
    assert time.process_time() - start < 2


@pytest.mark.parametrize("filler", ["#\n", "\n", "a ", "a\n", "'' ", "&a ", "[],", ":"])
def test_the_largest_file_takes_less_than_two_seconds(filler: str) -> None:
    start = time.process_time()
    with contextlib.suppress(UsageError):
        read_yaml((filler * MAX_BYTES)[:MAX_BYTES], "r.yaml")
    assert time.process_time() - start < 2


def test_depth_below_the_bound_is_read() -> None:
    data = read_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "r.yaml").data
    for _ in range(MAX_DEPTH - 1):
        assert isinstance(data, list)
        (data,) = data
    assert data == []


def test_read_text(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes("\ufeffname: ö".encode())
    assert read_text(file) == "name: ö"


def test_one_gigabyte_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    with file.open("wb") as handle:
        handle.truncate(2**30)
    start = time.process_time()
    with pytest.raises(UsageError, match=r"r\.yaml cannot be read: larger than 262144 bytes; give a YAML"):
        read_text(file)
    assert time.process_time() - start < 0.5


def test_what_is_not_utf_8_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(UsageError, match=r"r\.yaml:2:4: not UTF-8; save the file as UTF-8$"):
        read_text(file)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.yaml", "cannot be read: No such file"),
        ("", "cannot be read: not a regular file; give a YAML file"),
        ("a\0b", r"a\\x00b cannot be read"),
    ],
)
def test_what_is_no_file(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=reason):
        read_text(tmp_path / name)


def test_a_pipe_that_nobody_writes_to_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe cannot be read: not a regular file"):
        read_text(tmp_path / "pipe")


@given(st.text(alphabet=st.sampled_from("ab1.-+:#'\"[]{},&*!|>%@?\\x0 \n\t\0é~<=")))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    message = "r.yaml:"
    try:
        read_yaml(text, "r.yaml")
    except UsageError as error:
        message = str(error)
    assert message.startswith("r.yaml:")
    assert message.isprintable()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_json_is_read_as_itself(data: object) -> None:
    """Every scalar quoted or spelled as YAML 1.2 has it: data survive a writer that is not ours."""
    text = yaml.dump(data, Dumper=_Quoting, default_flow_style=True)
    assert read_yaml(text, "r.yaml").data == data


class _Quoting(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


_Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


VALUES = ["", " 1", " 1e-3", " null", " {}", " []", " wt", " -.inf", " ...", " a/b", " -", " [1]", "x", " '1'"]
LINES = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "", "  ", "    ", "   ", "- "]),
    st.sampled_from(["a:", "b:", "lr:", "null:", "true:", "_x:", "c d:", "7:", "-", "-"]),
    st.sampled_from(VALUES),
)


@given(st.lists(LINES, max_size=9).map("\n".join), st.booleans())
def test_what_libyaml_reads_pyyamls_parser_reads_as_the_same(text: str, newline: bool) -> None:
    text += "\n" * newline
    try:
        found = yaml_reader._Reader(yaml_reader._Libyaml(text), "r.yaml").document()
    except (UsageError, yaml.YAMLError):
        return
    assert found == yaml_reader._Reader(yaml.SafeLoader(text), "r.yaml").document()


@pytest.mark.parametrize("text", ["[a?, ?b]", "{a?: 1}", "a: |#x\n  b"])
def test_what_libyaml_alone_takes_is_refused_with_and_without_it(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for parser in (yaml_reader._Libyaml, None):
        monkeypatch.setattr(yaml_reader, "_Libyaml", parser)
        with pytest.raises(UsageError, match=r"^r\.yaml:1:[35]: not valid YAML: expected "):
            read_yaml(text, "r.yaml")


def test_recipes_are_read_by_libyaml_and_as_the_same_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    written = dump(Recipe(options={"solver": "ritz", "k": None, "padding": [36, 60]}))
    with monkeypatch.context() as by_libyaml:
        by_libyaml.delattr(yaml, "SafeLoader")
        found = read_yaml(written, "r.yaml")
    monkeypatch.setattr(yaml_reader, "_Libyaml", None)
    assert found == read_yaml(written, "r.yaml")
