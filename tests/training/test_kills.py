"""kill -9 of real processes: at steps, inside a checkpoint's write, and between its two files."""

import re
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import pytest
from processes import at_step, fg_process, kill_at_call
from tiny_runs import FLAGS, Listener, go_on, rows, untimed, weights

from fgcli.runs.rows import read_rows

METHODS = {
    "wperp": ["--method", "wperp", "--k", "3", "--diagnostics", "bias,cosine", "--diagnostics-every", "1"],
    "weight-perturbation": ["--method", "weight-perturbation"],
    "backprop": ["--method", "backprop", "--diagnostics", "overlap", "--diagnostics-every", "2"],
}
# At most one line: of no checkpoint yet, or of a kill between a tensor file and its manifest.
SAID = "(the run was stopped before its first checkpoint; it begins again|.*: has no manifest, .* before it is used)?"
Ended = tuple[Any, Any, Any, bytes]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kills")


@pytest.fixture(scope="module")
def whole(workplace: Path) -> dict[str, Ended]:
    """How the uninterrupted runs end, each a process of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(workplace)
        for name, flags in METHODS.items():
            assert fg_process("train", *FLAGS, *flags, "--out", f"whole-{name}")[0] == 0
    return {name: ended(workplace / f"whole-{name}") for name in METHODS}


def ended(path: Path) -> Ended:
    from fgcli.runs.run_directory import read_run

    run = read_run(path)
    return untimed(run.read_result()), untimed(rows(path)), read_rows(run.diagnostics_file), weights(path)


RANDOM = Random(7)
# 12 steps. Model, environment, recipe, then four checkpoints of two files: one replace a file, two fsync, three for
# tensors.
KILLS = [("wperp", partial(at_step, step, [SIGKILL])) for step in RANDOM.sample(range(1, 13), 4)]
KILLS += [("wperp", partial(kill_at_call, "replace", call, before=True)) for call in RANDOM.sample(range(4, 13), 2)]
KILLS += [("wperp", partial(kill_at_call, "replace", call, before=False)) for call in RANDOM.sample(range(4, 12), 2)]
KILLS += [("wperp", partial(kill_at_call, "fsync", call, before=True)) for call in RANDOM.sample(range(8, 23), 2)]
KILLS += [(name, partial(at_step, 5, [SIGKILL])) for name in ("weight-perturbation", "backprop")]
KILLS += [("backprop", partial(kill_at_call, "replace", 7, before=True))]


@pytest.mark.parametrize(("name", "kill"), KILLS, ids=range(len(KILLS)))
def test_a_killed_run_ends_as_the_uninterrupted_one(
    workplace: Path, whole: dict[str, Ended], monkeypatch: pytest.MonkeyPatch, name: str, kill: Any
) -> None:
    monkeypatch.chdir(workplace)
    path = Path(f"killed-{KILLS.index((name, kill))}")
    found, process = fg_process("train", *FLAGS, *METHODS[name], "--out", str(path), prepare=kill)
    assert found == -SIGKILL, process.stderr
    assert not (path / "result.json").exists()
    listener = Listener()
    go_on(path, listener)
    result, *rest = ended(path)
    assert [result, *rest] == list(whole[name])
    assert re.fullmatch(SAID, "\n".join(listener.warnings))
    assert not list(path.rglob(".*"))


def test_killed_again_and_again(workplace: Path, whole: dict[str, Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    flags = [*FLAGS, *METHODS["wperp"], "--out", "often"]
    for step in (4, 5, 8, 11):
        assert fg_process("train", *flags, prepare=partial(at_step, step, [SIGKILL]))[0] == -SIGKILL
        flags = ["--resume", "often"]
    assert fg_process("train", *flags)[0] == 0
    assert ended(Path("often")) == whole["wperp"]
