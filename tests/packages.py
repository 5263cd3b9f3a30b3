"""Packages of plugins, installed into a folder and tested as their authors would, without network."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILD = """
import os, sys, tomllib
from importlib import import_module
for package in sys.argv[2:]:
    os.chdir(package)
    with open("pyproject.toml", "rb") as file:
        import_module(tomllib.load(file)["build-system"]["build-backend"]).build_wheel(sys.argv[1])
"""


def install(site: Path, packages: Iterable[Path]) -> None:
    """Build each by its own pyproject and install it into `site`: one process builds all, which pip would not."""
    pytest.importorskip("hatchling", reason="the packages are built with hatchling")
    wheels = site.parent / "wheels"
    wheels.mkdir()
    _run([sys.executable, "-c", BUILD, str(wheels), *map(str, packages)], site.parent, site)
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    built = map(str, wheels.iterdir())
    _run([sys.executable, "-m", "pip", "install", *options, "--target", str(site), *built], site.parent, site)


def copy(package: Path, parent: Path) -> Path:
    """A copy outside of this repository, so that its tests run by its own settings alone."""
    return Path(shutil.copytree(package, parent / package.name, ignore=shutil.ignore_patterns("__pycache__")))


def run_tests(site: Path, packages: Iterable[Path]) -> str:
    """The output of their tests, with the plugins in `site` installed. Fails where one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib"]
    return _run([*command, f"--confcutdir={site.parent}", *map(str, packages)], site.parent, site)


def _run(command: list[str], folder: Path, site: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "FG_PLUGINS"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
