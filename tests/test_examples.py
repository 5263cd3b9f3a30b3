"""The README's and docs/python.md's Python is run, and the command that they show for a model of one's own."""

import doctest
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from tiny_runs import fg

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", ROOT / "docs" / "python.md")}


@pytest.mark.parametrize("page", PAGES)
def test_what_the_page_shows_is_so(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks: list[str] = re.findall(r"^```python\n(>>> .*?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)
    assert blocks
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    examples = doctest.DocTestParser().get_doctest("".join(blocks), {}, page, page, 0)
    said: list[str] = []
    ran = doctest.DocTestRunner().run(examples, out=said.append)
    assert ran.attempted > 5
    assert not ran.failed, "".join(said)


def test_the_shown_model_trains_by_the_shown_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ((name, source),) = re.findall(
        r'^```python title="([^"]+)"\n(.*?)^```$', PAGES["python.md"], re.MULTILINE | re.DOTALL
    )
    (command,) = re.findall(r"^```sh\nfg (.*)\n```$", PAGES["python.md"], re.MULTILINE)
    (tmp_path / name).write_text(source, encoding="utf-8")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FG_CACHE_DIR", str(tmp_path / "cache"))
    small = ["--dataset-option", "num_samples=100", "--batch-size", "32", "--out", "run", "--quiet"]
    done = fg(*shlex.split(command), *small)
    sys.modules.pop(Path(name).stem)
    assert done.exit_code == 0, done.output
    assert "model: my_nets:Net" in (tmp_path / "run" / "recipe.yaml").read_text()
