"""The function of `fg shell-init`, in each shell that is installed, at a terminal."""

import os
import pty
import select
import shutil
import time
from pathlib import Path

import pytest
from tiny_runs import fg

from fgcli.commands.doctor import extras, shell_line
from fgcli.commands.shell_init import FUNCTIONS, RC_LINES

START = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}


def typed(shell: str, lines: list[str], folder: Path) -> str:
    """What the shell prints at a terminal of its own while these lines are typed, one after the other."""
    process, terminal = pty.fork()
    if process == 0:
        path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        variables = {"PATH": path, "HOME": str(folder), "TERM": "dumb", "PS1": "$ ", "LC_ALL": "C.UTF-8"}
        os.execvpe(shell, [shell, *START[shell]], variables)
    shown = ""
    try:
        for number, line in enumerate(lines):
            os.write(terminal, f"{line}\necho END''{number}\n".encode())
            shown += _until(terminal, f"END{number}")
    finally:
        os.kill(process, 9)
        os.waitpid(process, 0)
        os.close(terminal)
    return shown


def _until(terminal: int, mark: str) -> str:
    text, deadline = "", time.monotonic() + 20
    while mark not in text:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"waited for {mark}, had:\n{text}"
        text += os.read(terminal, 4096).decode(errors="replace")
    return text


@pytest.mark.parametrize("shell", FUNCTIONS)
def test_the_toolkit_and_job_control_are_both_there(shell: str, tmp_path: Path) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    printed = fg("shell-init", shell)
    assert printed.exit_code == 0
    (tmp_path / "init").write_text(printed.stdout)
    toolkit = tmp_path / "fgcli"
    toolkit.write_text('#!/bin/sh\necho "toolkit:$#:$1:$2"\nexit 3\n')
    toolkit.chmod(0o755)
    status = "$status" if shell == "fish" else "$?"
    shown = typed(
        shell,
        [
            f"source {tmp_path}/init",
            f"source {tmp_path}/init",  # a second time changes nothing
            f"fg train 'two words'; echo code{status}",
            "fg --help; fg 100x",
            "sh -c 'sleep 0.2; echo first'job & sh -c 'sleep 0.4; echo second'job &",
            "fg %1; fg",
            "sh -c 'sleep 0.2; echo third'job &" if shell == "fish" else "sh -c 'sleep 0.2; echo third'job & fg 1",
            "fg",
            "fg -; echo none",
        ],
        tmp_path,
    )
    assert "toolkit:2:train:two words" in shown
    assert "code3" in shown
    assert "toolkit:1:--help:" in shown
    assert all(f"{number}job" in shown for number in ("first", "second", "third"))
    assert shown.count("toolkit:") == 2  # job control is not the toolkit's


def test_another_shell_is_refused() -> None:
    done = fg("shell-init", "dash")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("fg: there is no function for 'dash'; there is one for bash, zsh, fish: ")
    assert "in another shell, type fgcli in place of fg" in done.stderr


def test_doctor_says_what_is_here_and_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("SHELL", "/usr/bin/zsh")
    monkeypatch.setenv("COLUMNS", "200")
    required = ["rich>=13", 'onnx>=1 ; extra == "onnx"', "no-such-thing>=1; extra == 'onnx'", 'ruff; extra == "dev"']
    monkeypatch.setattr("fgcli.commands.doctor.requires", lambda name: required)
    done = fg("doctor")
    assert done.exit_code == 0, done.output
    lines = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert torch.__version__ in lines["torch"]
    assert "cpu: " in done.stdout
    assert f"{torch.get_num_threads()}" in lines["threads"]
    assert "no-such-thing: pip install 'fgcli[onnx]'" in lines["optional"]
    assert "zsh: fg is its builtin for job control, write fgcli" in lines["shell"]
    assert RC_LINES["zsh"] in lines["shell"]


def test_the_extras_of_a_distribution_are_read() -> None:
    listed = ['a-b>=1; extra == "x"', "c ; python_version > '3' and extra == 'x'", "d", "e; extra == 'dev'"]
    assert extras(listed) == {"x": ["a-b", "c"]}


@pytest.mark.parametrize(
    ("path", "said"),
    [("/bin/dash", "dash: fg is its builtin for job control, write fgcli ("), ("", "unknown: if fg is job control")],
)
def test_other_shells_are_told_the_name_that_works(path: str, said: str) -> None:
    assert shell_line(path).startswith(said)
    assert "so that fg is both" not in shell_line(path)
