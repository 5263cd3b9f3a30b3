from pathlib import Path

import pytest
from fake_plugins import ONE_METHOD, install, plugin

from fgcli.errors import UsageError
from fgcli.extend.entry import Entry
from fgcli.extend.plugins import Origin, Plugins, load_plugins
from fgcli.extend.registry import Registry

HEAD = """
    from fgcli.extend.entry import Entry
    from fgcli.extend.hookspecs import hookimpl
"""

BROKEN = {
    "fails at import": ("raise RuntimeError('no luck')", "RuntimeError: no luck"),
    "leaves at import": ("import sys; sys.exit(3)", "SystemExit: 3"),
    "is no Python": ("def (", "SyntaxError: "),
    "misses a dependency": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "misspells a hook": (
        HEAD + "\n    @hookimpl\n    def fg_gues_methods(): return []",
        "LookupError: there is no hook fg_gues_methods; did you mean fg_guess_methods?",
    ),
    "wants arguments": (HEAD + "\n    @hookimpl\n    def fg_models(session): return []", "PluginValidationError: "),
    "forgets the marker": ("def fg_models(): return []", "LookupError: it has no hooks; mark them with @hookimpl"),
    "raises in a hook": (HEAD + "\n    @hookimpl\n    def fg_models(): return 1 // 0", "ZeroDivisionError: "),
    "returns one entry": (
        HEAD + "\n    @hookimpl\n    def fg_models(): return Entry('x', 'a:b', 'S.')",
        "TypeError: fg_models returned Entry; it must return a list of Entry",
    ),
    "returns names": (
        HEAD + "\n    @hookimpl\n    def fg_models(): return ['x']",
        "TypeError: fg_models returned 'x' in its list; it must hold Entry only",
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
