"""A sweep that goes on in a folder: its seeds and those that the folder has. Imports no torch."""

from pathlib import Path

from fgcli.errors import UsageError
from fgcli.sweep.plan import plan
from fgcli.sweep.schema import Sweep


def widened(sweep: Sweep, recorded: Sweep | None, out: Path) -> Sweep:
    """The sweep with the seeds that the folder's has beside its own. What was planned there must still be planned.

    UsageError where a trial there is missing in this sweep, or another one.
    """
    if recorded is None:
        return sweep
    seeds = list(dict.fromkeys([*sweep.grid.seed, *recorded.grid.seed]))
    sweep = sweep.with_seeds(sorted(seeds))
    trials = {trial.name: trial for trial in plan(sweep)}
    for old in plan(recorded):
        new = trials.get(old.name)
        if new is None:
            raise _other(out, f"trial {old.name} there is not in the recipe")
        for key in sorted(old.overrides.keys() | new.overrides.keys()):
            if old.overrides.get(key) != new.overrides.get(key):
                raise _other(out, f"{key} of trial {old.name} differs")
    if sweep.processes != recorded.processes:
        raise _other(out, f"processes is {recorded.processes} there")
    if sweep.tune != recorded.tune:
        raise _other(out, "tune differs")
    return sweep


def _other(out: Path, what: str) -> UsageError:
    return UsageError(f"--out {out} holds another sweep: {what}; give another folder")
