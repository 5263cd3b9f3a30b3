"""README and docs: each block runs in every shell here, each command runs as shown, each link leads somewhere."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from fake_runs import fake_run, fake_sweep
from pages import BENCHMARKS, PAGES, ROOT, Page
from tiny_runs import fg

from fgcli import RunError, recipes
from fgcli.bench import measuring
from fgcli.extend.registry import load_registry
from fgcli.spectra import fitting, table_file
from fgcli.training import dry_run

PROGRAMS = ("fgcli", "pip", "python", "make", "jq", "cp")
SHELLS = {name: command for name, command in {
    "bash": ["bash", "-euo", "pipefail"], "dash": ["dash", "-eu"], "zsh": ["zsh", "-eu", "-o", "pipefail"],
    "fish": ["fish", "--no-config"],
}.items() if shutil.which(name)}  # fmt: skip
RECORDS = "docs/results/"
"""Pages of what was run once, at full size."""
ELSEWHERE = "docs/plugins.md"
"""Its commands are run in tests/test_docs.py."""
WITH_BLOCKS = [name for name, page in PAGES.items() if page.blocks("sh")]
WITH_COMMANDS = [name for name in WITH_BLOCKS if not name.startswith(RECORDS) and name != ELSEWHERE]
# A program that writes down what it is called with: NUL after each word, a line after each call.
STUB = '#!/bin/sh\nprintf \'%s\\000\' "${0##*/}" "$@" >> "$SAID"\nprintf \'\\n\' >> "$SAID"\n'


def said(page: Page, shell: str, folder: Path) -> list[tuple[str, ...]]:
    """The commands of a page's blocks, word by word, as a shell makes them."""
    (folder / "bin").mkdir()
    for program in PROGRAMS:
        (folder / "bin" / program).write_text(STUB)
        (folder / "bin" / program).chmod(0o755)
    for name in ("runs", "docs/results"):  # where the blocks redirect to
        (folder / name).mkdir(parents=True)
    environment = {"PATH": str(folder / "bin"), "SAID": str(folder / "said"), "HOME": str(folder)}
    command = [str(shutil.which(shell)), *SHELLS[shell][1:], "-c"]
    for block in page.blocks("sh"):
        done = subprocess.run(
            [*command, block], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), block
    lines = (folder / "said").read_bytes().decode().split("\0\n")[:-1]
    return [tuple(line.split("\0")) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_each_block_is_the_same_commands_in_every_shell(name: str, tmp_path: Path) -> None:
    found = {}
    for shell in SHELLS:
        (tmp_path / shell).mkdir()
        found[shell] = sorted(said(PAGES[name], shell, tmp_path / shell))  # those of a pipe run at once
    assert len({tuple(commands) for commands in found.values()}) == 1
    # zsh takes no comments at its prompt: "make test  # all" is a failing `make '#' all` there.
    assert not any("#" in block for block in PAGES[name].blocks("sh"))


def test_no_page_calls_the_shell_s_own_fg() -> None:
    names = "|".join(load_registry().names("subcommand"))
    for page in (PAGES | BENCHMARKS).values():
        if page.name == "docs/how-to/shell.md":  # on how `fg train` comes to be the toolkit
            continue
        assert not re.findall(rf"(?:^ *|`|&& |; |do )fg (?:{names}|--)(?!\w).*", page.text, re.MULTILINE)


def not_here(mode: str, jobs: object) -> list[dict[str, float]]:
    raise RunError("not here")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty folder, and what is imported from there is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "pages-cache"))
    # What takes long, and has tests of its own: a fit, the timing of each trial of a sweep, the dry run of each.
    monkeypatch.setattr(fitting, "fit_table", lambda options, progress: table_file.shipped_table())
    monkeypatch.setattr(measuring, "measure", not_here)
    monkeypatch.setattr(dry_run, "findings", lambda found, registry: [])
    before = set(sys.modules)
    yield tmp_path
    load_registry.cache_clear()
    for module in set(sys.modules) - before:
        if (tmp_path / f"{module}.py").exists():
            del sys.modules[module]


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_each_command_does_what_it_says(name: str, folder: Path) -> None:
    page = PAGES[name]
    (folder / "shell").mkdir()
    commands = said(page, "bash", folder / "shell")
    for title, text in page.files.items():
        (folder / title).parent.mkdir(parents=True, exist_ok=True)
        (folder / title).write_text(text, encoding="utf-8")
    for program, *words in commands:
        if program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        if program == "python":
            subprocess.run([sys.executable, *words], check=True)
        if program != "fgcli":
            continue
        done = fg(*smaller(words))
        assert done.exit_code == 0, f"{words}\n{done.output}"
        if words[0] == "bench" and "--dry-run" not in words:
            fake_sweep(sweep_folder(words), recipes.find(words[1]).read_text(encoding="utf-8"))


def smaller(words: list[str]) -> list[str]:
    """A command of the same meaning, of a training of one step, and of a sweep that is only planned.

    Reports are of runs that the page has made before, or of fakes.
    """
    command, *flags = words
    small = {"--width": "12", "--depth": "2", "--epochs": "1", "--k": "4"}
    if command == "compare":  # its trials are processes, and have tests of their own
        return [command, "--help"]
    if command in ("train", "analyze-moments", "analyze-overlap"):
        given = {flag: value for flag, value in pairwise(flags) if flag.startswith("--")}
        flags = [small.get(before, word) for before, word in pairwise(["", *flags])]
        runs = any(Path(word, "result.json").exists() for word in flags)
        if not runs:
            flags += ["--threads", "1", "--batch-size", "32", *([] if command != "train" else ["--max-steps", "2"])]
            flags += [] if "--width" in given or "--model" in given else ["--width", "12"]
            flags += [] if "--dataset" in given else ["--dataset-option", "num_samples=100"]
        few = ["--batches", "1", *(["--draws", "8"] if command == "analyze-moments" else [])]
        flags += ["--quiet"] if command == "train" else few
    if command == "bench" and "--dry-run" not in flags:
        flags = [*(flag for flag in flags if flag != "--timing"), "--dry-run"]
    if command == "report":
        for path in [Path(flag) for flag in flags if flag.startswith("runs/") and not Path(flag).exists()]:
            fake_run(path)
    return [command, *flags]


def sweep_folder(words: list[str]) -> Path:
    return Path(words[words.index("--out") + 1] if "--out" in words else f"runs/{Path(words[1]).stem}")


@pytest.mark.parametrize("name", sorted(PAGES | BENCHMARKS))
def test_each_link_leads_somewhere(name: str) -> None:
    pages = PAGES | BENCHMARKS
    for link in pages[name].links:
        target, _, anchor = link.partition("#")
        if re.match(r"https?:", target):
            continue
        path = os.path.normpath(Path(name).parent / target) if target else name
        assert (ROOT / path).exists(), link
        assert not anchor or anchor in pages[path].anchors, link


def test_the_readme_fits_on_two_screens() -> None:
    assert PAGES["README.md"].text.count("\n") <= 120


def test_each_method_has_its_section_and_its_options() -> None:
    text = PAGES["docs/methods.md"].text
    for method in load_registry().method_names():
        assert f"\n## {method}\n" in text
        assert f"<!-- options: {method} -->" in text
        assert re.search(rf"^\| `{method}` \|", text, re.MULTILINE)
        section = text[text.index(f"\n## {method}\n") + 1 :].partition("\n## ")[0]
        assert all(said in section for said in ("*Use it*", "*Do not*", "*Source*")), method
