"""`from fgcli import …` gives all that a plugin or a script needs, and imports nothing before it is asked for."""

import ast
import inspect
import re
import subprocess
import sys
import typing
from importlib import import_module
from pathlib import Path

import pytest

import fgcli
import fgcli.testing

ROOT = Path(__file__).parents[1]
HOMES: dict[str, str] = fgcli._homes()  # pyright: ignore[reportAttributeAccessIssue]
NAMES = [*HOMES, *(f"testing.{name}" for name in fgcli.testing.__all__)]


def named(name: str) -> typing.Any:
    return (
        getattr(fgcli.testing, name.removeprefix("testing.")) if name.startswith("testing.") else getattr(fgcli, name)
    )


def test_listing_the_names_imports_nothing_heavy() -> None:
    code = "import sys, fgcli; dir(fgcli); print(*sorted({'torch', 'numpy', 'pydantic', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_every_name_is_listed_and_comes_from_its_module() -> None:
    assert dir(fgcli) == sorted([*HOMES, "__version__"])
    assert len(HOMES) > 40
    for name, module in HOMES.items():
        assert getattr(fgcli, name) is getattr(import_module(module), name)


def test_the_stub_says_nothing_that_is_not_found() -> None:
    """Each of its imports is `from module import Name as Name`, which type checkers take as exported."""
    tree = ast.parse((ROOT / "fgcli" / "__init__.pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert {alias.asname for node in imports for alias in node.names} == set(HOMES)
    assert len(imports) == len(HOMES)
    others = [ast.unparse(node) for node in tree.body if not isinstance(node, ast.ImportFrom)]
    assert others == ["__version__: str"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"^module 'fgcli' has no attribute 'ForwardGradiant'$"):
        _ = fgcli.ForwardGradiant  # pyright: ignore[reportAttributeAccessIssue]


def sources() -> dict[str, str]:
    """The Python of plugins, of what `fgcli new-plugin` writes, and of every page."""
    found = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder, pattern in (("plugins", "*.py"), ("fgcli/templates", "*.py.tmpl"))
        for path in (ROOT / folder).rglob(pattern)
    }
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        blocks = re.findall(r"^```python[^\n]*\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
        found[str(path.relative_to(ROOT))] = "".join(blocks)
    return found


def test_plugins_templates_and_pages_import_nothing_deeper() -> None:
    deeper, imports = [], 0
    for name, text in sources().items():
        for module in re.findall(r"^[> .]*(?:from|import) (fgcli[\w.]*)", text, re.MULTILINE):
            imports += 1
            if module not in ("fgcli", "fgcli.testing"):
                deeper.append(f"{name}: {module}")
    assert imports > 40
    assert not deeper


@pytest.mark.parametrize("name", NAMES)
def test_every_name_has_a_docstring(name: str) -> None:
    one = inspect.unwrap(named(name))
    if inspect.isclass(one) or inspect.isfunction(one):
        assert len(inspect.getdoc(one) or "") > 20
        assert "__doc__" in vars(one) or inspect.isfunction(one)
        return
    tree = ast.parse(inspect.getsource(import_module(HOMES[name])))  # a string below its assignment
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            assert isinstance(after, ast.Expr)
            assert isinstance(after.value, ast.Constant)
            assert len(str(after.value.value)) > 20
            return
    pytest.fail(f"{name} is assigned nowhere in {HOMES[name]}")


INNER = {"GuessEstimator", "LinearUpstream", "Network", "Site", "Tangents", "Registry", "RunDirectory"}
"""Classes that implement a contract, whose docstrings are there, or are read and not called by plugins."""
FUNCTIONS = {name: inspect.unwrap(named(name)) for name in NAMES if inspect.isfunction(inspect.unwrap(named(name)))}
FUNCTIONS |= {
    f"{name}.{method.__name__}": method
    for name in NAMES
    if inspect.isclass(named(name)) and name not in INNER
    for key, method in vars(named(name)).items()
    if not key.startswith("_") and inspect.isfunction(method)
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_have_their_sections(name: str) -> None:
    """Google style: Args names each argument, Returns is there where something is returned."""
    function = FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    assert text, f"{name} has no docstring"
    sections = dict(re.findall(r"^(Args|Returns|Raises|References):\n(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL))
    arguments = [one for one in inspect.signature(function).parameters if one not in ("self", "cls")]
    if arguments:
        described = re.findall(r"^    (\w+): ", sections.get("Args", ""), re.MULTILINE)
        assert described == arguments, f"{name}: Args describes {described}, it takes {arguments}"
    given = inspect.signature(function).return_annotation
    if given not in (None, "None", inspect.Signature.empty):
        assert "Returns" in sections, f"{name} has no Returns"
