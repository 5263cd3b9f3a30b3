"""A run outlives its output."""

import json
from functools import partial
from pathlib import Path

import pytest
from processes import broken_output, fg_process
from tiny_runs import FLAGS, run, untimed


@pytest.mark.parametrize("how", ["pipe", "full", "closed"])
def test_a_run_goes_on_without_its_output(how: str) -> None:
    found, process = fg_process("train", *FLAGS, "--out", "run", prepare=partial(broken_output, how))
    assert found == 0
    lost = "fg: warning: standard output cannot be written; the run goes on without it\n"
    assert process.stderr == ("" if how == "closed" else lost)
    assert untimed(json.loads(Path("run/result.json").read_text())) == untimed(run(Path("whole")))


def test_a_result_that_cannot_be_printed_is_a_failure_but_written() -> None:
    found, process = fg_process(
        "train", *FLAGS, "--json", "--quiet", "--out", "run", prepare=partial(broken_output, "pipe")
    )
    assert (found, process.stderr) == (1, "")
    assert Path("run/result.json").exists()


def test_listings_end_quietly_when_nobody_reads() -> None:
    found, process = fg_process("methods", prepare=partial(broken_output, "pipe"))
    assert (found, process.stderr) == (1, "")
