"""The cores of this machine. Imports no torch."""

import os

from fgcli.errors import UsageError


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def refuse_crowded(flag: str, processes: int, threads: int) -> None:
    """UsageError where several processes, as `flag` asks for them, have more threads than there are cores."""
    there = cores()
    if processes > 1 and processes * threads > there:
        fixes = [f"{flag} {max(1, there // threads)}"]
        fixes += [f"--threads {there // processes}"] if there >= processes else []
        raise UsageError(
            f"{flag} is {processes}, with {threads} {'thread' if threads == 1 else 'threads'} each, and there are "
            f"{there} cores; give {', or '.join(fixes)}"
        )
