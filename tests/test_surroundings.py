"""What fg does where things are missing: the network, a home, a cache, a terminal, a clock that only goes forward."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import no_network
import pytest
from fake_runs import fake_run, fake_sweep
from processes import fg_process
from tiny_runs import FLAGS


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and nothing cached."""
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_training_and_its_report_use_no_network(workplace: Path) -> None:
    blocked = partial(no_network.refuse, str(workplace / "used"))
    flags = ["--html", "page.html", "--figures", "figures"]
    for arguments in (["train", *FLAGS, "--out", "run"], ["report", "run", *flags]):
        exit_code, process = fg_process(*arguments, prepare=blocked)
        assert (exit_code, process.stderr) == (0, "")
    assert not (workplace / "used").exists()


def test_a_use_of_the_network_would_be_seen(workplace: Path) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    environment = os.environ | {"PYTHONPATH": no_network.refuse_in_children(workplace, workplace / "used")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "PermissionError: no network in tests" in done.stderr
    assert (workplace / "used").read_text().startswith("socket.getaddrinfo ('127.0.0.1', 9")


# No folder of the user's can be made or written, for root either; 20 columns of no terminal, and no colours.
BARE = {"COLUMNS": "20", "NO_COLOR": "1", **dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), "/dev/null/x")}


def test_a_training_without_home_cache_terminal_and_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FG_CACHE_DIR")
    for name, value in BARE.items():
        monkeypatch.setenv(name, value)
    exit_code, process = fg_process("train", *FLAGS, "--out", "run", prepare=os.setsid)  # no controlling terminal
    assert (exit_code, process.stderr) == (0, "")
    assert "\ntrain accuracy:" in process.stdout


@pytest.mark.slow
def test_a_report_without_home_cache_terminal_and_room(workplace: Path) -> None:
    """A process of its own: matplotlib looks for its cache when it is imported."""
    fake_run(workplace / "run")
    environment = {name: value for name, value in os.environ.items() if name != "MPLCONFIGDIR"} | BARE
    command = [sys.executable, "-m", "fgcli", "report", "run", "--figures", "figures"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "test accuracy:" in done.stdout
    assert "\x1b" not in done.stdout
    assert list((workplace / "figures").glob("*.svg"))


@pytest.mark.slow
@pytest.mark.parametrize("flag", [None, "--html", "--figures", "--csv", "--json", "--markdown", "--latex"])
def test_a_report_of_a_folder_whose_name_is_no_text(workplace: Path, flag: str | None) -> None:
    """Its name is escaped: two runs with one label, which is told apart by it, and something that is no run."""
    folders = [workplace / os.fsdecode(name) for name in (b"caf\xe9", b"th\xe9", b"no\xebl")]
    for folder, lr in zip(folders[:2], (0.1, 0.2), strict=True):
        fake_sweep(
            folder,
            f"base: {{lr: {lr}}}\ngrid: {{methods: [wt]}}",
            environment=lambda trial, folder=folder: {"command": ["fg", "train", "--out", str(folder)]},
        )
    folders[2].mkdir()
    written = {"--html": "page.html", "--figures": "figures"}.get(flag or "")
    arguments = [*map(str, folders[:2]), str(workplace), *filter(None, [flag, written])]
    exit_code, process = fg_process("report", *arguments)
    assert (exit_code, process.stderr) == (0, "")
    text = Path("page.html").read_text(encoding="utf-8") if flag == "--html" else process.stdout
    if flag == "--json":
        text = json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8").decode()
    assert {None: r"no\xebl", "--latex": r"textbackslash{}xe9"}.get(flag, r"\xe9") in text
    assert flag != "--html" or r"train --out" in text


def clock_that_jumps_back() -> None:
    """An hour at each look; what measures times must not look at it."""
    import time

    now = time.time()

    def jumping() -> float:
        nonlocal now
        now -= 3600
        return now

    time.time = jumping


def test_a_clock_that_jumps_back_changes_nothing(workplace: Path) -> None:
    exit_code, process = fg_process("train", *FLAGS, "--json", "--out", "run", prepare=clock_that_jumps_back)
    assert exit_code == 0, process.stderr
    result = json.loads(process.stdout)
    assert 0 < result["step_ms_median"] < 1000 * result["wall_s"]
    walls = [json.loads(line)["wall_s"] for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert walls == sorted(walls)
