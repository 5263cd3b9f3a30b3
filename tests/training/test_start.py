"""Runs that go on where they were not begun."""

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tiny_runs import Listener, Stopper, go_on, run, untimed

from fgcli.extend.registry import load_registry
from fgcli.training.start import resume


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Stopper(7))
    return tmp_path / "run"


def environment(path: Path) -> dict[str, Any]:
    return json.loads((path / "environment.json").read_text())


def test_elsewhere_a_run_goes_on_and_says_what_differs(stopped: Path, tmp_path: Path) -> None:
    here = environment(stopped)
    begun = {**here, "torch": "2.10.0", "device_name": "Another processor (cpu)", "git_commit": "another"}
    (stopped / "environment.json").write_text(json.dumps(begun))
    listener = Listener()
    assert untimed(go_on(stopped, listener)) == untimed(run(tmp_path / "whole"))
    assert listener.warnings == [
        f"the run was begun with torch 2.10.0, device_name Another processor (cpu) and goes on with torch "
        f"{here['torch']}, device_name {here['device_name']}: its last bits may differ from those of a run that was "
        "never stopped"
    ]
    moved = {"after_step": 6, "torch": here["torch"], "device_name": here["device_name"]}
    assert environment(stopped) == {**begun, "went_on": [moved]}


def test_another_number_of_threads_is_followed_and_said(stopped: Path) -> None:
    listener, threads = Listener(), torch.get_num_threads()
    try:
        result = resume(stopped, None, {"threads": 2}, load_registry(), listener).run()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (result.recipe["threads"], result.steps) == (2, 12)
    assert [warning.partition(":")[0] for warning in listener.warnings] == [
        "the run was begun with threads 1 and goes on with threads 2"
    ]


class Stopped(Listener):
    """Hears the warnings of a run, and interrupts its first step."""

    def stepped(self, step: int, loss: float) -> None:
        raise KeyboardInterrupt


def test_code_that_changes_twice_is_told_as_it_was_so_far_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, module, told = tmp_path / "layers_of_mine.py", ModuleType("layers_of_mine"), []
    module.__file__ = str(file)
    monkeypatch.setitem(sys.modules, "layers_of_mine", module)
    texts = ("a = 1", "a = 2", "a = 2", "a = 1")
    file.write_text(texts[0])
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", Stopper(7))
    for text in texts[1:]:
        file.write_text(text)
        listener = Stopped()
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path / "run", None, {}, load_registry(), listener).run()
        told.append(listener.warnings)
    one, two = (hashlib.sha256(text.encode()).hexdigest()[:12] for text in texts[:2])
    assert told == [
        [f"module layers_of_mine was {one} so far, and is {two} from here on: the run is of both"],
        [],
        [f"module layers_of_mine was {one}, then {two} so far, and is {one} from here on: the run is of all of them"],
    ]
