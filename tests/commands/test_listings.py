import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_plugins import ONE_METHOD, install
from processes import fg_process
from tiny_runs import fg

from fgcli.extend.registry import load_registry

OPTIONED = """
    from pydantic import Field

    from fgcli import Entry, GuessOptions, hookimpl

    FG_CONTRACT = 2

    class Own(GuessOptions):
        share: float = Field(default=0.25, ge=0, le=1, description="A [bold]share[/bold].")

    @hookimpl
    def fg_guess_methods():
        return [Entry("theirs", "their_module:Theirs", "A guess.", Own)]
"""


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def put_first(folder: str) -> None:
    sys.path.insert(0, folder)


def of_process(site: Path, *arguments: str, **environment: str) -> Done:
    """`fg` in a process of its own, where the distributions in `site` are installed and all plugins allowed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("FG_PLUGINS", raising=False)
        for name, value in ({"COLUMNS": "150"} | environment).items():
            patch.setenv(name, value)
        code, process = fg_process(*arguments, prepare=partial(put_first, str(site)))
    return Done(code, process.stdout, process.stderr)


@pytest.mark.parametrize("listing", ["methods", "datasets", "models"])
def test_json_has_every_name_with_its_options_and_source(listing: str) -> None:
    rows = json.loads(fg(listing, "--json").stdout)
    registry = load_registry()
    kinds = {"methods": ("guess method", "estimator"), "datasets": ("dataset",), "models": ("model",)}[listing]
    entries = {(kind, one.entry.name): one.entry for kind in kinds for one in registry.registered(kind)}
    assert {(row["kind"], row["name"]) for row in rows} == entries.keys()
    for row in rows:
        entry = entries[row["kind"], row["name"]]
        assert row["summary"] == entry.summary
        assert row["source"]["distribution"] == "fgcli"
        assert [option["name"] for option in row["options"]] == list(entry.options.model_fields)
        assert all(option["description"] and option["type"] for option in row["options"])
        defaults = {option["name"]: option["default"] for option in row["options"]}
        assert defaults == entry.options().model_dump(mode="json")


def test_the_table_shows_types_defaults_and_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = " ".join(fg("methods", "wperp").stdout.split())
    assert shown.startswith("wperp guess method, fgcli 0.1.0 W̃⊥: noise in the top-k")
    assert "k int (>= 1) | 'rank' = 10 Dimension of the guess space, or `rank`" in shown
    assert "backprop estimator" not in shown


def test_a_narrow_terminal_breaks_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = fg("methods", "wperp", "activation-perturbation").stdout.splitlines()
    assert "tangents and memory  options of activation-perturbation, " in lines


def test_an_unknown_name_says_the_nearest() -> None:
    done = fg("methods", "wperb")
    assert done.exit_code == 2
    assert "did you mean 'wperp'?" in done.stderr
    done = fg("methods", "theirs:wt")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "method 'theirs:wt' is of the plugin 'theirs', which is not in use" in done.stderr


def test_options_of_a_plugin_are_listed_and_checked(tmp_path: Path) -> None:
    install(tmp_path, "optioned", OPTIONED)
    shown = " ".join(of_process(tmp_path, "methods", "theirs").stdout.split())
    assert shown.startswith("theirs guess method, optioned 1.0 A guess. uncovered ")
    assert (
        " share float (>= 0, <= 1) = 0.25 A [bold]share[/bold]. tangents and memory options of theirs tangents int "
        in shown
    )
    done = of_process(tmp_path, "train", "--method", "theirs", "--option", "share=2")
    assert (done.returncode, done.stderr) == (2, "fg: --option share is 2; it must be at most 1\n")


def test_one_name_of_two_distributions_is_shown_twice_as_it_is_written(tmp_path: Path) -> None:
    install(tmp_path, "first", ONE_METHOD)
    install(tmp_path, "second", ONE_METHOD)
    shown = of_process(tmp_path, "methods", "theirs").stdout
    assert "first:theirs  guess method, first 1.0" in shown
    assert "second:theirs  guess method, second 1.0" in shown
    only = json.loads(of_process(tmp_path, "methods", "second:theirs", "--json").stdout)
    assert [row["source"]["distribution"] for row in only] == ["second"]


def test_plugins_lists_what_each_adds_and_what_is_broken(tmp_path: Path) -> None:
    install(tmp_path, "good", ONE_METHOD)
    install(tmp_path, "bad", "raise RuntimeError('no luck')", version="2.1")
    done = of_process(tmp_path, "plugins")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "good 1.0  (module good)\n  guess method  theirs\n" in done.stdout
    why = "plugin bad 2.1 is set aside: RuntimeError: no luck; to disable it, uninstall it or set FG_PLUGINS=good"
    assert f"broken: {why}\n" in done.stdout
    assert "Traceback" not in done.stdout
    verbose = of_process(tmp_path, "plugins", "--verbose").stdout
    assert f"good 1.0  (module good)\n  {tmp_path / 'good.py'}\n" in verbose
    assert "theirs  their_module:Theirs" in verbose
    assert "Traceback (most recent call last)" in verbose


def test_plugins_json(tmp_path: Path) -> None:
    install(tmp_path, "good", ONE_METHOD)
    install(tmp_path, "bad", "import no_such_module")
    install(tmp_path, "unwanted", ONE_METHOD)
    listed = json.loads(of_process(tmp_path, "plugins", "--json", FG_PLUGINS="good,bad").stdout)
    assert [plugin["distribution"] for plugin in listed["plugins"]] == ["fgcli", "good"]
    assert listed["plugins"][1]["adds"] == [
        {"kind": "guess method", "name": "theirs", "target": "their_module:Theirs", "summary": "A guess."}
    ]
    assert [(broken["distribution"], broken["cause"]) for broken in listed["broken"]] == [
        ("bad", "ModuleNotFoundError: No module named 'no_such_module'")
    ]
    assert [origin["distribution"] for origin in listed["left_out"]] == ["unwanted"]


@pytest.mark.slow  # several processes
def test_a_plugin_that_imports_torch_is_called_slow(tmp_path: Path) -> None:
    """In a process that has not imported it."""
    install(tmp_path, "heavy", "import torch\n" + ONE_METHOD.replace("\n    ", "\n"))
    variables = {name: value for name, value in os.environ.items() if name != "FG_PLUGINS"} | {"COLUMNS": "150"}
    variables |= {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "fgcli.app", "plugins"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert "slow: it imports torch when it is loaded" in done.stdout


HEAVY = "import sys; sys.argv = ['fg', {!r}]\ntry:\n    import fgcli.app; fgcli.app.main()\nexcept SystemExit: pass\n"
HEAVY += "print('HEAVY', [m for m in ('torch', 'scipy', 'matplotlib', 'numpy') if m in sys.modules])"


@pytest.mark.parametrize("listing", ["methods", "datasets", "models", "plugins"])
def test_listing_imports_nothing_heavy(listing: str) -> None:
    done = subprocess.run([sys.executable, "-c", HEAVY.format(listing)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_a_broken_plugin_breaks_neither_the_help_nor_another_command(tmp_path: Path) -> None:
    install(tmp_path, "bad", "raise RuntimeError('no luck')")
    assert of_process(tmp_path, "--help").returncode == 0
    done = of_process(tmp_path, "models", "--json")
    assert done.returncode == 0
    assert "mlp" in [entry["name"] for entry in json.loads(done.stdout)]
    line = "plugin bad 1.0 is set aside: RuntimeError: no luck; to disable it, uninstall it or set FG_PLUGINS=\n"
    assert done.stderr == f"fg: warning: {line}"
    assert of_process(tmp_path, "models", FG_PLUGINS="").stderr == ""


def test_strict_makes_a_broken_plugin_an_error(tmp_path: Path) -> None:
    install(tmp_path, "bad", "raise RuntimeError('no luck')")
    by_flag = of_process(tmp_path, "--strict-plugins", "models")
    by_variable = of_process(tmp_path, "models", FG_STRICT_PLUGINS="1")
    for done in (by_flag, by_variable):
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("fg: plugin bad 1.0 is set aside: RuntimeError: no luck; to disable it")
        assert done.stderr.count("\n") == 1
    assert of_process(tmp_path, "--strict-plugins", "models", FG_PLUGINS="").returncode == 0


SUBCOMMANDS = """
    from fgcli import Entry, hookimpl

    FG_CONTRACT = 2

    @hookimpl
    def fg_subcommands():
        return [
            Entry("hello", "commands_of_a_plugin:hello", "Greets."),
            Entry("absent", "no_such_module:hello", "Is not there."),
            Entry("odd", "commands_of_a_plugin:odd", "Is no function for typer."),
        ]

    def hello(name: str, loud: bool = False) -> None:
        '''Greets somebody.'''
        if name == "nobody":
            raise KeyError(name)
        print("HELLO" if loud else "hello", name)

    def odd(what: int | str) -> None: ...
"""


def test_a_subcommand_of_a_plugin(tmp_path: Path) -> None:
    install(tmp_path, "commands-of-a-plugin", SUBCOMMANDS)
    assert "hello Greets." in " ".join(of_process(tmp_path, "--help").stdout.split())
    assert of_process(tmp_path, "hello", "you", "--loud").stdout == "HELLO you\n"
    assert of_process(tmp_path, "commands-of-a-plugin:hello", "you").stdout == "hello you\n"
    assert "Greets somebody." in of_process(tmp_path, "hello", "--help").stdout
    for arguments, code, said in (
        (("hello", "nobody"), 1, "fg: internal error, KeyError: 'nobody'; `fgcli --debug hello ...` shows where\n"),
        (("absent",), 2, "fg: absent cannot be loaded from no_such_module:hello: ModuleNotFoundError: No module"),
        (("odd",), 2, "fg: subcommand odd of commands-of-a-plugin 1.0 is no function for typer: AssertionError: "),
    ):
        done = of_process(tmp_path, *arguments)
        assert done.returncode == code
        assert done.stderr.startswith(said)
        assert "commands-of-a-plugin" in done.stderr or code == 1, "the plugin is named"
        assert done.stderr.count("\n") == 1
