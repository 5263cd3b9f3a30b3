"""The wheel holds what the checkout has beside the package."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install` of a wheel built from this checkout would put on the path."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_recipes_are_found_in_a_wheel(unpacked: Path, tmp_path: Path) -> None:
    code = "import fgcli.recipes as r; print(r.folder()); print(*r.names())"
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    folder, names = done.stdout.splitlines()
    assert Path(folder) == unpacked / "fgcli" / "_recipes"
    assert names.split() == sorted(path.stem for path in (ROOT / "recipes").rglob("*.yaml"))


def test_the_wheel_holds_the_table_and_the_command(unpacked: Path) -> None:
    assert (unpacked / "fgcli/spectra/newton_schulz.json").read_bytes() == (
        ROOT / "fgcli/spectra/newton_schulz.json"
    ).read_bytes()
    (entry_points,) = unpacked.glob("*.dist-info/entry_points.txt")
    assert {"fg = fgcli.app:main", "fgcli = fgcli.app:main"} <= set(entry_points.read_text().splitlines())
    assert not (unpacked / "tests").exists()
    assert not (unpacked / "plugins").exists()


def test_the_wheel_holds_what_type_checkers_read_and_the_license(unpacked: Path) -> None:
    assert (unpacked / "fgcli" / "py.typed").exists()
    stub = "fgcli/__init__.pyi"
    assert (unpacked / stub).read_bytes() == (ROOT / stub).read_bytes()
    (license_file,) = unpacked.glob("*.dist-info/licenses/LICENSE")
    assert license_file.read_bytes() == (ROOT / "LICENSE").read_bytes()
    code = "import fgcli; print(fgcli.__file__, fgcli.Entry.__name__)"
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=unpacked, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(unpacked / "fgcli" / "__init__.py"), "Entry"]


def test_the_wheel_holds_the_templates_of_plugins(unpacked: Path) -> None:
    templates = {path.relative_to(ROOT) for path in (ROOT / "fgcli" / "templates").rglob("*.tmpl")}
    assert len(templates) == 36
    assert all((unpacked / path).exists() for path in templates)
    page = (ROOT / "fgcli" / "report" / "templates").iterdir()
    assert {path.name for path in page} == {path.name for path in (unpacked / "fgcli/report/templates").iterdir()}
