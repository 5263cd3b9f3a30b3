"""Where the processes of one run meet: the folder that their launcher makes, and what it tells them. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fgcli.errors import UsageError

GONE = 75
"""Exit code of a process that has ended as another one was gone."""
_FOLDER = "FG_MEETING"


@dataclass(frozen=True)
class Meeting:
    """The folder of a launcher."""

    folder: Path

    def variables(self, rank: int, size: int) -> dict[str, str]:
        """What a process finds in its environment, by the names that torchrun has."""
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        return {name: str(value) for name, value in place.items()} | {_FOLDER: str(self.folder)}

    def errors_file(self, rank: int) -> Path:
        """The file that takes a process's standard error."""
        return self.folder / f"{rank}.err"

    def say_resume_command(self, command: str) -> None:
        """What the launcher tells the user if a process is killed."""
        (self.folder / "resume").write_text(command, encoding="utf-8")

    def resume_command(self) -> str:
        """The same; "" before the run had a folder."""
        file = self.folder / "resume"
        return file.read_text(encoding="utf-8") if file.exists() else ""


@dataclass(frozen=True)
class Rank:
    """One of the processes of a run."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    meeting: Meeting | None
    """Of fg's own launcher; None under torchrun."""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Rank | None":
        """What an environment says; None where this is no process of several. UsageError for what can be no rank."""
        folder = environment.get(_FOLDER)
        needed = ("RANK", "WORLD_SIZE", *(() if folder else ("MASTER_ADDR", "MASTER_PORT")))
        if any(name not in environment for name in needed):
            return None

        def numbers(one: str, of: str) -> tuple[int, int]:
            given = environment.get(one, environment["RANK"]), environment.get(of, environment["WORLD_SIZE"])
            if not all(value.isdecimal() for value in given) or int(given[0]) >= int(given[1]):
                raise UsageError(
                    f"{one} is {given[0]!r} and {of} {given[1]!r} in the environment; they must be whole numbers, the "
                    "first below the second, as torchrun sets them: start with torchrun, or unset them"
                )
            return int(given[0]), int(given[1])

        everywhere, here = numbers("RANK", "WORLD_SIZE"), numbers("LOCAL_RANK", "LOCAL_WORLD_SIZE")
        return cls(*everywhere, *here, Meeting(Path(folder)) if folder else None)
