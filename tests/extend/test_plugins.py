import subprocess
import sys
from pathlib import Path

import pytest
from fake_plugins import ONE_METHOD, install, plugin

from fgcli.errors import UsageError
from fgcli.extend.entry import Entry
from fgcli.extend.plugins import Origin, Plugins, load_plugins
from fgcli.extend.registry import Registry

HEAD = """
    from fgcli import Entry, hookimpl

    FG_CONTRACT = 2
"""


@pytest.fixture(autouse=True)
def _all_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FG_PLUGINS")


BROKEN = {
    "fails at import": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "leaves at import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "raises what is no Exception": ("class Odd(BaseException): pass\nraise Odd('no luck')", "Odd: no luck"),
    "raises what has no text": (
        "class Mute(Exception):\n    def __str__(self): return 1 // 0\nraise Mute",
        "Mute, which has no text of its own",
    ),
    "is no Python": ("def (", "SyntaxError: "),
    "misses a dependency": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "misspells a hook": (
        HEAD + "\n    @hookimpl\n    def fg_gues_methods(): return []",
        "LookupError: there is no hook fg_gues_methods; did you mean fg_guess_methods?",
    ),
    "wants arguments": (HEAD + "\n    @hookimpl\n    def fg_models(session): return []", "PluginValidationError: "),
    "forgets the marker": (
        "FG_CONTRACT = 2\ndef fg_models(): return []",
        "LookupError: it has no hooks; mark them with @hookimpl",
    ),
    "raises in a hook": (HEAD + "\n    @hookimpl\n    def fg_models(): return 1 // 0", "ZeroDivisionError: "),
    "returns one entry": (
        HEAD + "\n    @hookimpl\n    def fg_models(): return Entry('x', 'a:b', 'S.')",
        "TypeError: fg_models returned Entry; it must return a list of Entry",
    ),
    "returns names": (
        HEAD + "\n    @hookimpl\n    def fg_models(): return ['x']",
        "TypeError: fg_models returned 'x' in its list; it must hold Entry only",
    ),
    "is made for another contract": (
        HEAD + "\n    FG_CONTRACT = 7\n    @hookimpl\n    def fg_models(): return []",
        "LookupError: it is made for contract 7 of fg's plugins, and this fg has contract 2",
    ),
    "is made for a contract that is no number": (
        HEAD + "\n    FG_CONTRACT = True\n    @hookimpl\n    def fg_models(): return []",
        "LookupError: it is made for contract True of fg's plugins, and this fg has contract 2",
    ),
    "is made for contract 1": (
        HEAD + "\n    FG_CONTRACT = 1\n    @hookimpl\n    def fg_models(): return []",
        "LookupError: it is made for contract 1 of fg's plugins, and this fg has contract 2; "
        'docs/plugins.md says what to change ("From contract 1 to 2")',
    ),
    "does not say which contract": (
        HEAD.replace("FG_CONTRACT = 2", "") + "\n    @hookimpl\n    def fg_models(): return []",
        "LookupError: it has no line FG_CONTRACT = 2, as plugins for contract 1 have none, and this fg has contract 2; "
        "docs/plugins.md says",
    ),
    "registers a name twice": (
        HEAD + "\n    @hookimpl\n    def fg_models(): return [Entry('x', 'a:b', 'S.'), Entry('x', 'c:d', 'S.')]",
        "ValueError: fg_models returned 'x', which bad-registers-a-name-twice 2.1 registers twice",
    ),
    "registers a method twice": (
        HEAD
        + """
    @hookimpl
    def fg_guess_methods(): return [Entry('x', 'a:b', 'S.')]
    @hookimpl
    def fg_estimators(): return [Entry('x', 'a:b', 'S.')]""",
        "ValueError: fg_estimators returned 'x', which bad-registers-a-method-twice 2.1 registers twice",
    ),
    "replaces a command of fg": (
        HEAD + "\n    @hookimpl\n    def fg_subcommands(): return [Entry('train', 'a:b', 'S.')]",
        "ValueError: fg_subcommands returned 'train', a command of fg itself; give it another name",
    ),
    "has a name that is no text": (
        HEAD + "\n    @hookimpl\n    def fg_models(): return [Entry(3, 'a:b', 'S.')]",
        "ValueError: name is 3; it must be letters",
    ),
    "has an unsafe name": (
        HEAD + "\n    @hookimpl\n    def fg_models(): return [Entry('../x', 'a:b', 'S.')]",
        "ValueError: name is '../x'; it must be letters",
    ),
}


@pytest.mark.parametrize(("source", "cause"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_is_set_aside(
    source: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    bad = f"bad-{request.node.callspec.id.replace(' ', '-').lower()}"
    good = f"good-beside-{bad}"
    install(tmp_path, bad, source, version="2.1")
    install(tmp_path, good, ONE_METHOD)
    monkeypatch.syspath_prepend(tmp_path)

    registry = Registry(load_plugins())

    (broken,) = registry.broken
    assert str(broken).startswith(f"{bad} 2.1: {cause}")
    assert "\n" not in str(broken)
    assert {"theirs", "wt"} <= set(registry.method_names())


def test_an_unknown_method_quotes_what_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "broken-for-quote", "import no_such_module")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UsageError, match=r"unknown method 'mine'; .* set aside as broken: broken-for-quote 1.0: Module"
    ):
        Registry(load_plugins()).method("mine")


def test_a_plugin_that_fails_in_one_hook_is_not_half_there() -> None:
    plugins = Plugins()
    half = plugin(fg_models=[Entry("half", "a:b", "S.")], fg_datasets=["no entry"])  # pyright: ignore[reportArgumentType]
    plugins.register(half, Origin("half", "1"))
    assert Registry(plugins).names("model") == []


def test_an_entry_point_that_is_missing_from_its_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "no-attribute", "")
    (tmp_path / "no_attribute-1.0.dist-info" / "entry_points.txt").write_text("[fg]\nx = no_attribute:absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert str(load_plugins().broken[0]).startswith("no-attribute 1.0: AttributeError: ")


def test_a_plugin_registered_twice_counts_once() -> None:
    plugins, one = Plugins(), plugin(fg_models=[Entry("m", "a:b", "S.")])
    plugins.register(one, Origin("one", "1"))
    plugins.register(one, Origin("one", "1"))
    registry = Registry(plugins)
    assert registry.entry("model", "m").name == "m"
    assert registry.broken == ()


def test_a_refused_plugin_leaves_nothing_behind() -> None:
    plugins, bad = Plugins(), plugin(fg_model=[])
    for _ in range(2):
        with pytest.raises(LookupError, match=r"there is no hook fg_model; did you mean fg_models\?"):
            plugins.register(bad, Origin("bad", "1"))


def test_two_modules_of_a_distribution_do_not_share_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "two-modules", ONE_METHOD)
    (tmp_path / "another_module.py").write_text((tmp_path / "two_modules.py").read_text())
    points = tmp_path / "two_modules-1.0.dist-info" / "entry_points.txt"
    points.write_text("[fg]\na = two_modules\nb = another_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry(load_plugins())
    (broken,) = registry.broken
    assert "returned 'theirs', which two-modules 1.0 registers twice" in broken.cause
    assert registry.method("theirs")[1].name == "theirs"


@pytest.mark.parametrize(
    ("allowed", "used"),
    [
        ("allowed-one", {"allowed-one"}),
        (" Allowed_One , allowed.two ", {"allowed-one", "allowed-two"}),
        ("", set()),
        ("fgcli", set()),
    ],
)
def test_fg_plugins_allows_those_that_it_names(
    allowed: str, used: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("allowed-one", "allowed-two"):
        install(tmp_path, name, ONE_METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FG_PLUGINS", allowed)
    registry = Registry(load_plugins())
    assert {origin.distribution for origin in registry.origins} == {"fgcli"} | used
    assert {origin.distribution for origin in registry.left_out} >= {"allowed-one", "allowed-two"} - used
    assert registry.broken == ()
    if not used:
        with pytest.raises(UsageError, match=r"unknown method 'theirs'; .*; left out by FG_PLUGINS: .*allowed-one 1.0"):
            registry.method("theirs")


def test_fg_plugins_that_names_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FG_PLUGINS", "not-there")
    registry = Registry(load_plugins())
    assert registry.missing == ("not-there",)
    assert registry.complaints() == ["FG_PLUGINS names not-there, which is not installed: install it, or leave it out"]
    with pytest.raises(UsageError, match=r"unknown method 'theirs'; .*; named by FG_PLUGINS, but not installed: not-t"):
        registry.method("theirs")


@pytest.mark.parametrize("value", ["", "no module!! : x"])
def test_an_entry_point_that_names_no_module(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "no-module", "")
    (tmp_path / "no_module-1.0.dist-info" / "entry_points.txt").write_text(f"[fg]\nx = {value}\n")
    monkeypatch.syspath_prepend(tmp_path)
    said = f"no-module 1.0: ValueError: its entry point x is {value!r}; it must be the name of a module"
    assert [str(broken) for broken in load_plugins().broken] == [said]


def test_complaints_say_which_why_and_how_to_disable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "complained-of", "import no_such_module", version="3.0")
    install(tmp_path, "works-beside", ONE_METHOD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FG_PLUGINS", "complained-of,works-beside")
    (line,) = Registry(load_plugins()).complaints()
    why = "ModuleNotFoundError: No module named 'no_such_module'"
    mend = "to disable it, uninstall it or set FG_PLUGINS=works-beside"
    assert line == f"plugin complained-of 3.0 is set aside: {why}; {mend}"


def test_what_a_plugin_prints_goes_to_standard_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ONE_METHOD.replace("\n    ", "\n").replace("    return", "    print('called'); return")
    install(tmp_path, "chatty", f"print('imported')\n{source}")
    monkeypatch.syspath_prepend(tmp_path)
    Registry(load_plugins())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.split() == ["imported", "called"]


def test_a_plugin_that_imports_torch_is_noticed(tmp_path: Path) -> None:
    install(tmp_path, "heavy", "import torch\n" + ONE_METHOD.replace("\n    ", "\n"))
    install(tmp_path, "light", ONE_METHOD)
    (tmp_path / "torch.py").write_text("")  # as good as the real one, and sooner there
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from fgcli.extend.registry import load_registry; print([str(origin) for origin in load_registry().heavy])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['heavy 1.0']"
