"""The Python of README and docs is run: what a page shows is so."""

import doctest
import json
import re
from pathlib import Path

import pytest
import torch
from fake_runs import fake_run
from pages import PAGES, ROOT
from tiny_runs import run

WITH_EXAMPLES = [name for name, page in PAGES.items() if re.search(r"^```python\n>>> ", page.text, re.MULTILINE)]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_what_the_page_shows_is_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = PAGES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path / "cache"))
    if "load_model" in page.text:
        run(Path("runs/used"))
    else:
        fake_run(Path("runs/first"), accuracy=0.661, epochs=40)
    shown: dict[str, object] = {"__name__": "shown"}
    for title, source in page.files.items():
        if title.endswith(".py"):
            exec(compile(source, title, "exec"), shown)
    torch.manual_seed(0)
    blocks = [block for block in page.blocks("python") if block.startswith(">>> ")]
    examples = doctest.DocTestParser().get_doctest("".join(blocks), shown, name, name, 0)
    said: list[str] = []
    ran = doctest.DocTestRunner().run(examples, out=said.append)
    assert ran.attempted
    assert not ran.failed, "".join(said)


def test_the_notebook_prints_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    cells = json.loads((ROOT / "docs" / "tutorial" / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {"__name__": "notebook"}
    printed = 0
    for cell in (cell for cell in cells if cell["cell_type"] == "code"):
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
        shown = "".join("".join(output["text"]) for output in cell["outputs"]).splitlines()
        for line, expected in zip(capsys.readouterr().out.splitlines(), shown, strict=True):
            printed += 1
            numbers, words = re.findall(r"-?\d+\.\d+", line), re.sub(r"-?\d+\.\d+", "", line).split()
            assert words == re.sub(r"-?\d+\.\d+", "", expected).split()
            # Another processor adds in another order, which a training carries on.
            assert list(map(float, numbers)) == pytest.approx(
                list(map(float, re.findall(r"-?\d+\.\d+", expected))), abs=0.05
            )
    assert printed > 5


def test_the_pages_that_must_have_examples_have_them() -> None:
    assert {"README.md", "docs/python.md", "docs/tutorial/own-method.md", "docs/how-to/export.md"} <= set(WITH_EXAMPLES)
