"""A trial on a worker of Ray's: in a process of its own, which ends with the worker. Imports neither torch nor Ray.

Ray gives a worker many trials of one bench, one after the other, so that a fork server pays.
"""

import os
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from fgcli.bench import task
from fgcli.bench.forked import Starter
from fgcli.bench.process import POLL_S, end, open_log
from fgcli.runs.run_directory import RunDirectory

_Variables = tuple[tuple[str, str], ...]


def run(content: Mapping[str, Any], folder: str, variables: Mapping[str, str]) -> int:
    """Begin a trial, or go on with it, to its end, also after an earlier worker was lost. Returns the exit code.

    `content`: the trial, as `task.written` has it. `folder`: the working directory of the bench, on a file system that
    all nodes share. `variables` are added to the worker's environment.
    """
    os.chdir(folder)
    trial = task.read(content)
    with open_log(trial) as log:
        if RunDirectory(trial.run_dir).is_finished():
            return 0
        gpus = tuple(item for item in os.environ.items() if item[0].endswith("VISIBLE_DEVICES"))
        starter = _starter(tuple(variables.items()), gpus)
        process = starter.start(trial.command_now(), trial.threads, log)
        try:
            # Not `wait`: Ray cancels by an exception, which comes between two instructions of Python's.
            while (code := process.poll()) is None:
                time.sleep(POLL_S)
            return code
        finally:
            end([process])


@lru_cache(maxsize=1)
def _starter(variables: _Variables, gpus: _Variables) -> Starter:
    """That of the trial before, unless Ray has given this one other GPUs, which its server would not see."""
    return Starter(dict(variables))
