"""docs/plugins.md is run: every file that it shows, every command, every name that it calls public."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest
from fake_runs import fake_run
from tiny_runs import fg

import fgcli
import fgcli.testing
from fgcli import GuessOptions, Trial
from fgcli.extend import hookspecs
from fgcli.extend.plugin_file import add_file
from fgcli.extend.plugins import Plugins
from fgcli.extend.registry import HOOKS, Registry, load_registry
from fgcli.testing import check_dataset, check_estimator, check_guess_method

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```$', TEXT, re.MULTILINE | re.DOTALL))
SINGLE_FILES = [name for name in FILES if "/" not in name]
COMMANDS: list[str] = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the page, in a folder of their own; what is imported from there is forgotten afterwards."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    load_registry.cache_clear()
    shown = {Path(name).stem for name in SINGLE_FILES} | {"fg_plugin_example"}
    for name in [module for module in sys.modules if module.partition(".")[0] in shown]:
        del sys.modules[name]


def registry(name: str) -> Registry:
    plugins = Plugins()
    add_file(plugins, Path(name))
    return Registry(plugins)


def test_the_shown_package_is_the_one_in_plugins() -> None:
    shown = [name for name in FILES if "/" in name]
    assert len(shown) == 5
    for name in shown:
        assert FILES[name] == (ROOT / "plugins" / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_from_an_empty_folder_to_an_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("hatchling", reason="the packages are built with hatchling")
    assert len(COMMANDS) == 7
    # For pip: install into this folder, with what is installed here, and no network.
    pip = {"PIP_TARGET": "site", "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    paths = {"PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)]), "FG_CACHE_DIR": str(folder / "cache")}
    for name, value in (pip | paths | {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("FG_PLUGINS")
    monkeypatch.syspath_prepend(folder / "site")
    load_registry.cache_clear()
    said = {}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        if program == "fgcli":
            done = fg(*arguments)
            code, said[command] = done.exit_code, done.output
        else:
            line = [sys.executable, *({"pip": ["-m", "pip"], "python": []}[program]), *arguments]
            ended = subprocess.run(line, capture_output=True, text=True, check=False)
            code, said[command] = ended.returncode, ended.stdout + ended.stderr
        assert code == 0, f"{command}\n{said[command]}"
    assert "fg-plugin-example 0.1.0  (module fg_plugin_example)\n  guess method  example" in said["fgcli plugins"]
    assert re.search(r"share +float \(>= 0, <= 1\) = 0\.5", said["fgcli methods example"])
    assert len(list(folder.glob("runs/*/best.txt"))) == 1


def test_there_is_an_example_of_every_hook() -> None:
    for kind, hook in HOOKS.items():
        assert any(registry(name).names(kind) for name in SINGLE_FILES if f"def {hook}(" in FILES[name])


def test_the_page_has_every_hook_with_its_signature() -> None:
    assert set(HOOKS.values()) == {name for name in vars(hookspecs) if name.startswith("fg_")}
    for hook in HOOKS.values():
        assert getattr(hookspecs, hook).__doc__.endswith(".")
        assert str(signature(getattr(hookspecs, hook))) == "() -> list[fgcli.extend.entry.Entry]"
        assert f"| `def {hook}() -> list[Entry]` |" in TEXT


def test_the_guess_method_keeps_the_contract() -> None:
    target = registry("my_method.py").entry("guess method", "sphere").load()
    check_guess_method(lambda: target(GuessOptions()), unbiased=True)


def test_the_estimator_keeps_the_contract() -> None:
    entry = registry("an_estimator.py").entry("estimator", "signs")
    check_estimator(lambda: entry.load()(entry.options()), any_network=True)


def test_the_dataset_keeps_the_contract() -> None:
    entry = registry("a_dataset.py").entry("dataset", "corners")
    check_dataset(lambda: entry.load()(entry.options()))


def test_the_model_and_the_optimizer_train(folder: Path) -> None:
    plugins = [f"--plugin={name}" for name in ("a_model.py", "an_optimizer.py", "a_dataset.py")]
    chosen = ["--model=softmax", "--optimizer=rmsprop", "--dataset=corners", "--method=backprop", "--lr=0.1"]
    numbers = ["--epochs=3", "--batch-size=50", "--threads=1", "--device=cpu", "--json", "--out=run"]
    done = fg("train", *plugins, *chosen, *numbers)
    assert done.exit_code == 0, done.output
    assert '"test_accuracy": 1.0' in done.stdout


def test_the_executor_runs_trials(folder: Path) -> None:
    entry = registry("an_executor.py").entry("executor", "one-by-one")
    trials = [
        Trial(str(code), (sys.executable, "-c", f"exit({code})"), folder, folder / f"{code}.log", 1) for code in (3, 0)
    ]
    assert [outcome.exit_code for outcome in entry.load()(entry.options()).run(trials)] == [3, 0]


def test_the_subcommand_prints(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry("a_subcommand.py").entry("subcommand", "steps").load()(fake_run(folder / "done"))
    assert capsys.readouterr().out == "32\n"


def test_the_method_after_the_change_of_contracts_keeps_the_contract() -> None:
    entry = registry("half.py").entry("guess method", "half")
    check_guess_method(lambda: entry.load()(entry.options()))


def test_the_page_lists_all_that_is_public() -> None:
    section = TEXT[TEXT.index("## What is public") : TEXT.index("## From contract 1 to 2")]
    rows = re.findall(r"^\| (.*) \| (`.*`) \|$", section, re.MULTILINE)
    listed = {where.startswith("tests"): set[str]() for where, _ in rows}
    for where, names in rows:
        listed[where.startswith("tests")] |= set(re.findall(r"`(\w+)`", names))
    assert listed[False] == {name for name in dir(fgcli) if not name.startswith("_")}
    assert listed[True] == set(fgcli.testing.__all__)
