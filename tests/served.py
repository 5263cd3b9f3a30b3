"""An executor whose trials the tests' own fork server starts: no bench imports torch for them. A plugin file."""

from collections.abc import Iterable, Iterator

from processes import FgProcess

from fgcli import Entry, Options, Outcome, Trial, hookimpl

FG_CONTRACT = 2
FLAGS = ["--plugin", __file__, "--executor", "served"]


class Served:
    """One trial after the other."""

    def __init__(self, options: Options) -> None: ...

    def run(self, trials: Iterable[Trial]) -> Iterator[Outcome]:
        """As Executor has it."""
        for trial in trials:
            process = FgProcess(*trial.command[3:], name=str(trial.log))
            exit_code = process.wait()
            trial.log.write_text(process.stdout + process.stderr)
            yield Outcome(trial, exit_code)


@hookimpl
def fg_executors() -> list[Entry]:
    """Found by fg."""
    return [Entry("served", "served:Served", "One trial after the other, from the tests' fork server.")]
