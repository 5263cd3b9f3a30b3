"""Where a run takes place: the content of environment.json. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fgcli.extend.own_code import PLUGIN
from fgcli.runs.record import as_json, read_record
from fgcli.shell import command_line


@dataclass(frozen=True, slots=True)
class Extension:
    """That a finished run went on: after `after_step` steps it had this many epochs, or steps at most."""

    after_step: int
    epochs: int
    max_steps: int | None
    recipe_sha256: str
    """Of the recipe that it had until then, by which its checkpoints are known."""


@dataclass(frozen=True, slots=True)
class Environment:
    """What environment.json holds, which any version of fg may have written: what is asked for may be missing."""

    content: Mapping[str, Any]

    @classmethod
    def of(
        cls, versions: Mapping[str, str | None], *, device: str, device_name: str, threads: int, command: list[str],
        code: Mapping[str, Mapping[str, str]], plugins: Mapping[str, str] = {}, data: str = "", weights: str = "",
        processes: int = 1,
    ) -> "Environment":  # fmt: skip
        """`plugins` says where the run's method, dataset, model and optimiser are from; `code`, `data` and the initial
        `weights` have sums, "" for weights that the model drew."""
        place = {"device": device, _DEVICE_NAME: device_name, _THREADS: threads}
        place |= {_PROCESSES: processes} if processes > 1 else {}
        made_with = {_PLUGINS: dict(plugins), _COMMAND: command, _CODE: code, _DATA: data}
        made_with |= {_WEIGHTS: weights} if weights else {}
        return cls({**versions, **place, **made_with})

    @property
    def versions(self) -> dict[str, str]:
        """Those of VERSIONS that are known."""
        return {name: str(self.content[name]) for name in VERSIONS if self.content.get(name)}

    @property
    def code(self) -> Mapping[str, Any]:
        """The user's own code, by module: its file and the file's sum."""
        found = self.content.get(_CODE)
        return found if isinstance(found, Mapping) else {}

    @property
    def latest_code(self) -> dict[str, Mapping[str, Any]]:
        """The same, with the sums of the files that the run last went on with."""
        found = {name: one for name, one in self.code.items() if isinstance(one, Mapping)}
        for move in (one for one in self.moves if isinstance(one, Mapping)):
            known = {name: move[f"module {name}"] for name in found if f"module {name}" in move}
            found |= {name: {**found[name], "sha256": total} for name, total in known.items()}
        return found

    @property
    def plugin_files(self) -> dict[str, Mapping[str, Any]]:
        """Of the user's own code what was given by --plugin, by module."""
        return {name: one for name, one in self.latest_code.items() if one.get("flag") == PLUGIN}

    @property
    def data(self) -> str:
        """The sum of all samples; "" where that is not known."""
        return str(self.content.get(_DATA) or "")

    @property
    def weights(self) -> str:
        """The sum of the weights that the run began with; "" where its model drew them."""
        return str(self.content.get(_WEIGHTS) or "")

    @property
    def moves(self) -> list[Any]:
        """Where the run went on, with what differed there."""
        found = self.content.get(_MOVES)
        return found if isinstance(found, list) else []

    @property
    def extensions(self) -> list[Extension]:
        """The times that the run was finished and went on for more epochs. RunError for one that is broken."""
        found = self.content.get(_EXTENDED)
        listed = found if isinstance(found, list) else []
        return [read_record(Extension, one, Path("environment.json")) for one in listed]

    @property
    def machine(self) -> str:
        """Device, threads and processes, which every time of the run depends on."""
        text, processes = machine_text(self.content.get(_DEVICE_NAME), self.content.get(_THREADS)), self.processes
        return text if processes == 1 else f"{text}, {processes} processes"

    @property
    def processes(self) -> int:
        """The number of processes that the run was in."""
        found = self.content.get(_PROCESSES)
        return found if isinstance(found, int) else 1

    @property
    def command(self) -> str:
        """How the run was started, to be pasted; "" where that is not known."""
        said = self.content.get(_COMMAND) or ""
        return command_line(*said[1:]) if isinstance(said, list) else str(said)

    @property
    def without_command(self) -> dict[str, Any]:
        """What runs of one place have in common."""
        return {key: value for key, value in self.content.items() if key != _COMMAND}

    @property
    def plugins(self) -> dict[str, str]:
        """The plugin that each section of the recipe is from."""
        found = self.content.get(_PLUGINS)
        return {str(key): str(value) for key, value in found.items()} if isinstance(found, Mapping) else {}

    def changed(self, now: "Environment") -> dict[str, tuple[object, object]]:
        """What differs now so that the numbers of a run may, too: its two values by name, where both are known."""
        old, new = ({_PROCESSES: 1, **one.content} for one in (self, now))
        pairs = {name: (old.get(name), new.get(name)) for name in _DECISIVE}
        return {name: (old, new) for name, (old, new) in pairs.items() if None not in (old, new) and old != new}

    def with_move(self, step: int, differences: Mapping[str, tuple[object, object]]) -> "Environment":
        """The same, and that the run went on elsewhere after a step."""
        entry = {"after_step": step, **{name: new for name, (_, new) in differences.items()}}
        return Environment({**self.content, _MOVES: [*self.moves, entry]})

    def with_extension(self, extension: Extension) -> "Environment":
        """The same, and that the run goes on for longer than it was begun for."""
        return Environment({**self.content, _EXTENDED: [*map(as_json, self.extensions), as_json(extension)]})


VERSIONS = ("fg", "git_commit", "python", "torch", "numpy", "scipy", "cuda")
"""Of which the last bits of a run depend, and more where what they do has changed."""
_DEVICE_NAME, _THREADS, _PLUGINS, _COMMAND, _MOVES = "device_name", "threads", "plugins", "command", "went_on"
_EXTENDED, _WEIGHTS, _PROCESSES = "extended", "weights", "processes"
_CODE, _DATA, _COMMIT = "code", "data", VERSIONS[1]
# What the last bits of a run depend on, as far as users meet it: not the commit, which changes with every edit.
_DECISIVE = (*(name for name in VERSIONS if name != _COMMIT), _DEVICE_NAME, _THREADS, _PROCESSES)


def machine_text(device_name: object, threads: object) -> str:
    """Device and threads in words."""
    if not isinstance(device_name, str) or not isinstance(threads, int):
        return "unknown device"
    return f"{device_name}, {threads} {'thread' if threads == 1 else 'threads'}"
