"""Checkpoints that are whole or not there: a safetensors file, and a JSON manifest with its sha256 written last.

A checkpoint counts once its manifest has its name; a kill before that leaves a tensor file that nobody reads. Every
byte of both files is under a checksum, so a damaged checkpoint is noticed and the one before it is used. Nothing is
ever unpickled.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fgcli.errors import RunError, WriteError
from fgcli.files import put_in_place, read_json, read_regular, temporary_name, to_json, write_atomically
from fgcli.runs.run_directory import RunDirectory
from fgcli.training.tensor_file import write_tensors

SCHEMA = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a run needs to go on after `step` updates: tensors by name, and plain JSON data."""

    step: int
    tensors: dict[str, Tensor]
    data: dict[str, Any]


class Damaged(RunError):
    """Why a checkpoint cannot be used; names the file."""


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run. `recipe` is any text that names what is trained: those of another are refused.

    Those of `kept_steps` stay, and the newest `keep_last`: of two, should the last be damaged, one is left.
    """

    folder: Path
    recipe: str
    kept_steps: frozenset[int] = frozenset()
    keep_last: int = 2
    earlier: frozenset[str] = frozenset()
    """The sums of recipes that this run had before it was extended."""

    def save(self, checkpoint: Checkpoint, best: int | None = None) -> None:
        """Write a checkpoint and drop those that are not kept, as that of step `best` is.

        WriteError when it cannot be written.
        """
        tensor_file, manifest_file = self._files(checkpoint.step)
        temporary = temporary_name(tensor_file)
        try:
            # One of the same step, should there be a damaged one, must not vouch for the new tensors.
            manifest_file.unlink(missing_ok=True)
            temporary.unlink(missing_ok=True)
            sha256, size = write_tensors(temporary, checkpoint.tensors)
            put_in_place(temporary, tensor_file)
            manifest = {
                "schema": SCHEMA,
                "step": checkpoint.step,
                "recipe_sha256": text_sum(self.recipe),
                "tensors": {"file": tensor_file.name, "bytes": size, "sha256": sha256},
                "data": checkpoint.data,
            }
            manifest["sha256"] = text_sum(to_json(manifest))
            write_atomically(manifest_file, to_json(manifest) + "\n")
        except (OSError, ValueError) as error:
            temporary.unlink(missing_ok=True)
            raise WriteError(f"cannot write the checkpoint {tensor_file}: {error}") from error
        self._prune(checkpoint.step, best)

    def load_newest(
        self, take: Callable[[Checkpoint], object] = lambda checkpoint: None
    ) -> tuple[Checkpoint | None, list[str]]:
        """The newest usable checkpoint, and what is wrong with each newer one; None when none is complete.

        Usable is what is whole and what `take` takes: it raises RunError for one that does not fit. RunError when there
        are checkpoints and none is usable: a run never restarts silently.
        """
        complaints: list[str] = []
        completed = self.steps()
        for step in sorted({*completed, *self._steps_of("safetensors")}, reverse=True):
            if step not in completed:
                complaints.append(f"{self._files(step)[0]}: has no manifest, which is written last")
                continue
            try:
                checkpoint = self.load(step)
                take(checkpoint)
                return checkpoint, complaints
            except Damaged as damage:
                complaints.append(str(damage))
            except RunError as misfit:
                complaints.append(f"{self._files(step)[0]}: {misfit}")
        if completed:
            raise RunError(f"no usable checkpoint in {self.folder}: {'; '.join(complaints)}")
        return None, []

    def steps(self) -> list[int]:
        """The steps of all completed checkpoints, the oldest first."""
        return self._steps_of("json")

    def _steps_of(self, suffix: str) -> list[int]:
        found = (re.fullmatch(rf"step-(\d{{10,}})\.{suffix}", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def _files(self, step: int) -> tuple[Path, Path]:
        stem = f"step-{step:010d}"
        return self.folder / f"{stem}.safetensors", self.folder / f"{stem}.json"

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of that step. Damaged when it cannot be used."""
        tensor_file, manifest_file = self._files(step)
        manifest = _read_manifest(manifest_file, step)
        if manifest.recipe_sha256 not in {text_sum(self.recipe), *self.earlier}:
            raise Damaged(f"{manifest_file}: was written under another recipe than the run's recipe.yaml of today")
        stated = manifest.tensors
        try:
            # What was checked is what is loaded: the file is read once.
            content = read_regular(tensor_file, stated.bytes)
            if hashlib.sha256(content).hexdigest() != stated.sha256:
                raise Damaged(
                    f"{tensor_file}: damaged, its {len(content)} bytes do not match the sha256 of the "
                    f"{stated.bytes} bytes written"
                )
            return Checkpoint(step, load(content), manifest.data)
        except (OSError, ValueError, MemoryError, SafetensorError) as error:
            raise Damaged(f"{tensor_file}: cannot be read ({error})") from error

    def _prune(self, newest: int, best: int | None) -> None:
        """Keep what is up to `newest` at most; later ones are of a future that was given up for being damaged."""
        past = [step for step in self.steps() if step <= newest]
        kept = {*past[-self.keep_last :], *self.kept_steps.intersection(past), best}
        kept_names = {path.name for step in kept if step is not None for path in self._files(step)}
        ours = [path for path in self.folder.iterdir() if re.match(r"\.?step-\d+\.", path.name)]
        # The manifest goes first, as a checkpoint counts by it.
        for path in sorted(ours, key=lambda path: path.suffix != ".json"):
            if path.name not in kept_names:
                path.unlink(missing_ok=True)


def store_of(run: RunDirectory, kept_steps: frozenset[int] = frozenset(), keep_last: int = 2) -> CheckpointStore:
    """The checkpoints of a run, whose recipe is written."""
    text = run.recipe_file.read_text(encoding="utf-8")
    earlier = frozenset(one.recipe_sha256 for one in run.recorded_environment().extensions)
    return CheckpointStore(run.checkpoints, text, kept_steps, keep_last, earlier)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _Tensors(_Strict):
    file: str
    bytes: int
    sha256: str


class _Manifest(_Strict):
    """What stands beside the tensors."""

    schema_: int = Field(alias="schema")
    step: int
    recipe_sha256: str
    tensors: _Tensors
    data: dict[str, Any]


def _read_manifest(path: Path, step: int) -> _Manifest:
    try:
        manifest = read_json(path)
    except (OSError, ValueError) as error:
        raise Damaged(f"{path}: cannot be read ({error})") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("schema"), int):
        raise Damaged(f"{path}: is no manifest of a checkpoint")
    if manifest["schema"] > SCHEMA:
        raise Damaged(f"{path}: has schema {manifest['schema']}, this fg reads {SCHEMA}; use a newer fg")
    sha256 = manifest.pop("sha256", None)
    if sha256 != text_sum(to_json(manifest)) or manifest.get("step") != step:
        raise Damaged(f"{path}: damaged, it does not match its own sha256")
    try:
        return _Manifest.model_validate(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def text_sum(text: str) -> str:
    """Its sha256."""
    return hashlib.sha256(text.encode()).hexdigest()
