"""Hostile files for everything of fg that reads one, for so many seconds: by hand, and never in the tests.

    python benchmarks/fuzz.py --seconds 600 --seed 0

Each case damages a sound file: its bytes, or values in its structure. Half of the damaged checkpoints and tables get
checksums that match, so that what comes after them is met, too. A case fails when a reader raises anything but the
error with one line that is its to raise, or takes two seconds. Failing cases are kept in `--out`.
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import yaml

from fgcli.errors import FgError
from fgcli.extend.registry import load_registry
from fgcli.files import to_json
from fgcli.recipe import dump_plain, read_recipe, resolve
from fgcli.recipes import folder as recipe_folder
from fgcli.report.compose import compose
from fgcli.report.data import as_json
from fgcli.spectra import table_file
from fgcli.sweep.read import is_sweep, parse_sweep, resolve_trials
from fgcli.training.assembly import Assembly, assemble
from fgcli.training.checkpoints import CheckpointStore
from fgcli.training.reporter import Reporter
from fgcli.training.start import begin
from fgcli.training.state import restore

LIMIT_S = 2.0
TINY: dict[str, Any] = {
    "dataset_options": {"num_samples": 100}, "width": 8, "depth": 2, "batch_size": 32, "epochs": 2, "eval_every": 1,
    "threads": 1, "device": "cpu", "method": "wperp", "k": 3, "diagnostics": ["variance", "overlap"],
    "diagnostics_every": 1,
}  # fmt: skip
VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**90, 0.0, -0.0, 1e-320, 1e308, float("inf"),
    float("nan"), "", " ", "\0", "\u202e", "\udc80", "../../etc/passwd", "/dev/zero", "!!python/name:os.system", "rank",
    "wt", "a" * 5000, "1e3", "0x10", "[", "{}", [], {}, [[]], {"": {}}, [None], {"tensor": "no such"}, {"a": [1]},
]  # fmt: skip
TOKENS = [
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\n", b"\t", b": ", b"- ", b"&a ", b"*a", b"!!python/name:os.system ",
    b"<<: ", b"? ", b"|", b">", b"%", b"---\n", b"'", b'"', b"{", b"}", b"[", b"]", b"#", b"\\UFFFFFFFF", b"1e999",
    b"NaN", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"0" * 200, b"[" * 300, b"{a: " * 100, b"\xff" * 8, b"\0" * 8,
]  # fmt: skip


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice([1, 1, 1, 2, 5, 20])):
        here, there = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        there = min(there, here + rng.choice([0, 1, 4, 40, 4000]))
        content = rng.choice(
            [
                content[:here] + bytes([rng.randrange(256)]) + content[here + 1 :],
                content[:here] + rng.choice(TOKENS) + content[there:],
                content[:here] + content[there:],
                content[:there] + content[here:],
                content[:here],
            ]
        )
    return content


def damaged_value(value: Any, rng: random.Random) -> Any:
    """One part of plain data replaced, removed, doubled or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.random()
        if kind < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if kind < 0.2:
            return {(f"{rng.choice(VALUES)}" if k == key else k): v for k, v in value.items()}
        return value | {key: damaged_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.85:
        at = rng.randrange(len(value))
        return [*value[:at], damaged_value(value[at], rng), *value[at + (rng.random() < 0.9) :]]
    return rng.choice(VALUES)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")  # with NaN and Infinity, which fg never writes


class Fuzz:
    """Sound files, made once, and what reads them."""

    def __init__(self, workplace: Path, rng: random.Random) -> None:
        self.rng, self.registry = rng, load_registry()
        self.file, self.copy, self.sound = workplace / "file", workplace / "copy", workplace / "run"
        begin(resolve(None, TINY, self.registry), self.sound, self.registry, Reporter()).run()
        self.recipe_text = (self.sound / "recipe.yaml").read_text(encoding="utf-8")
        self.assembly: Assembly = assemble(
            resolve(read_recipe(self.sound / "recipe.yaml"), {}, self.registry), self.registry
        )
        self.recipes = [path.read_bytes() for path in sorted(recipe_folder().glob("*.yaml"))] + [
            self.recipe_text.encode()
        ]
        self.table = table_file.to_json(table_file.shipped_table())

    def targets(self) -> dict[str, tuple[Callable[[], object], type[Exception]]]:
        """What damages a file and reads it, and the error that it may raise."""
        return {
            "recipe": (self.recipe, FgError),
            "checkpoint": (self.checkpoint, FgError),
            "run directory": (self.run_directory, FgError),
            "coefficient table": (self.coefficients, FgError),
        }

    def recipe(self) -> None:
        content = self.rng.choice(self.recipes)
        if self.rng.random() < 0.5:
            self.file.write_bytes(damaged_bytes(content, self.rng))
        else:
            self.file.write_text(dump_plain(damaged_value(yaml.safe_load(content), self.rng)), encoding="utf-8")
        source = read_recipe(self.file)
        if is_sweep(source):
            resolve_trials(parse_sweep(source), source, self.registry)
        else:
            resolve(source, {}, self.registry)

    def checkpoint(self) -> None:
        shutil.copytree(self.sound / "checkpoints", self.copy)
        for manifest_file in sorted(self.copy.glob("*.json")):
            tensor_file, manifest = manifest_file.with_suffix(".safetensors"), json.loads(manifest_file.read_text())
            if self.rng.random() < 0.5:
                tensor_file.write_bytes(self._damaged_tensors(tensor_file.read_bytes()))
                manifest["tensors"] |= self._sums(tensor_file)
            if self.rng.random() < 0.5:
                manifest = damaged_value(manifest, self.rng)
            if isinstance(manifest, dict) and self.rng.random() < 0.8:
                manifest.pop("sha256", None)
                with contextlib.suppress(ValueError):  # NaN
                    manifest["sha256"] = hashlib.sha256(to_json(manifest).encode()).hexdigest()
            write_json(manifest_file, manifest)
            if self.rng.random() < 0.2:
                manifest_file.write_bytes(damaged_bytes(manifest_file.read_bytes(), self.rng))
        store = CheckpointStore(self.copy, self.recipe_text)
        store.load_newest(lambda checkpoint: restore(self.assembly, checkpoint))

    def _damaged_tensors(self, content: bytes) -> bytes:
        """Bytes anywhere, or the header's structure."""
        if self.rng.random() < 0.4:
            return damaged_bytes(content, self.rng)
        length = int.from_bytes(content[:8], "little")
        header = json.dumps(damaged_value(json.loads(content[8 : 8 + length]), self.rng)).encode()
        stated = self.rng.choice([len(header), len(header), len(header), 0, length, 2**40, 2**64 - 1])
        return stated.to_bytes(8, "little") + header + content[8 + length :]

    @staticmethod
    def _sums(tensor_file: Path) -> dict[str, Any]:
        content = tensor_file.read_bytes()
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def run_directory(self) -> None:
        shutil.copytree(self.sound, self.copy, ignore=shutil.ignore_patterns("checkpoints"))
        path = self.copy / self.rng.choice(
            ["recipe.yaml", "environment.json", "metrics.jsonl", "diagnostics.jsonl", "result.json"]
        )
        if path.suffix == ".yaml" or self.rng.random() < 0.4:
            path.write_bytes(damaged_bytes(path.read_bytes(), self.rng))
        else:
            lines = [json.dumps(damaged_value(json.loads(line), self.rng)) for line in path.read_text().splitlines()]
            path.write_text("\n".join(lines) + "\n")
        as_json(compose([self.copy]))

    def coefficients(self) -> None:
        if self.rng.random() < 0.4:
            table_file.parse_table(damaged_bytes(self.table.encode(), self.rng), "it")
            return
        content = damaged_value(json.loads(self.table), self.rng)
        if isinstance(content, dict):
            content.pop("checksum", None)
            with contextlib.suppress(ValueError):  # NaN
                content["checksum"] = table_file._checksum(content)
        table_file.parse_table(json.dumps(content).encode(), "it")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=Path("fuzz-failures"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as workplace:
        failures = run(Fuzz(Path(workplace), random.Random(arguments.seed)), arguments)
    sys.exit(1 if failures else 0)


def run(fuzz: Fuzz, arguments: argparse.Namespace) -> int:
    torch.set_num_threads(1)
    cases: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    targets = {name: target for name, target in fuzz.targets().items() if arguments.only in name}
    end = time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        for name, (read, allowed) in targets.items():
            shutil.rmtree(fuzz.copy, ignore_errors=True)
            cases[name] += 1
            began, fault = time.process_time(), ""
            try:
                read()
            except allowed as error:
                refused[name] += 1
                if "\n" in str(error):
                    fault = f"more than one line: {error}"
            except Exception:
                fault = traceback.format_exc()
            if (taken := time.process_time() - began) > LIMIT_S:
                fault += f"took {taken:.1f} s"
            if fault:
                failures[name] += 1
                keep(fuzz, arguments.out / f"{name.replace(' ', '-')}-{cases[name]}", fault)
    for name in targets:
        print(f"{name}: {cases[name]} cases, {refused[name]} refused, {failures[name]} failed")
    return failures.total()


def keep(fuzz: Fuzz, folder: Path, fault: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if fuzz.file.exists():
        shutil.copy(fuzz.file, folder)
    if fuzz.copy.exists():
        shutil.copytree(fuzz.copy, folder / "copy", dirs_exist_ok=True)
    (folder / "fault.txt").write_text(fault)
    print(f"failed: {folder}\n{fault[-600:]}", flush=True)


if __name__ == "__main__":
    main()
