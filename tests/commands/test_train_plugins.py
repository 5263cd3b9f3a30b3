"""`fgcli train --plugin`, `--sink` and `--sink-option`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from tiny_runs import FLAGS, fg, untimed

from fgcli.extend.registry import load_registry

SOURCE = """
    import json

    from pydantic import Field

    from fgcli import Entry, GuessOptions, Options, hookimpl
    from fgcli.methods.transpose import Transpose

    FG_CONTRACT = 2


    class SinkOptions(Options):
        indent: int = Field(default=0, ge=0, description="Spaces.")
        fail: bool = Field(default=False, description="Whether to fail.")


    @hookimpl
    def fg_guess_methods():
        return [Entry("theirs", "mine_in_a_file:Transpose", "W̃ᵀ.", GuessOptions)]


    @hookimpl
    def fg_metric_sinks():
        return [Entry("log", "mine_in_a_file:Log", "A file.", SinkOptions)]


    class Log:
        def __init__(self, options):
            self.options, self.rows = options, []

        def started(self, plan):
            self.file = plan.run_dir / "log.json"

        def row(self, row):
            print("a row")
            if self.options.fail:
                raise OSError("no space")
            self.rows.append(row)

        def finished(self, result):
            self.file.write_text(json.dumps([self.rows, result], indent=self.options.indent))
"""
PLUGIN = ["--plugin", "./mine_in_a_file.py"]


@pytest.fixture(autouse=True)
def _plugin(workplace: Path) -> Iterator[None]:
    (workplace / "mine_in_a_file.py").write_text(dedent(SOURCE), encoding="utf-8")
    yield
    load_registry.cache_clear()
    sys.modules.pop("mine_in_a_file", None)


def test_a_method_of_a_file_trains_as_the_built_in_one() -> None:
    theirs = fg("train", *FLAGS, *PLUGIN, "--method", "theirs", "--out", "theirs", "--json")
    ours = fg("train", *FLAGS, "--method", "wt", "--option", "embeddings=guess", "--out", "ours", "--json")
    assert untimed(json.loads(theirs.stdout)) == untimed(json.loads(ours.stdout)) | {"method": "theirs"}
    assert json.loads(Path("theirs/environment.json").read_text())["plugins"]["method"].startswith(
        "mine_in_a_file file "
    )
    assert json.loads(Path("ours/environment.json").read_text())["plugins"]["method"] == "fgcli 0.1.0"


def test_a_file_is_loaded_on_request_only() -> None:
    done = fg("train", *FLAGS, "--method", "theirs")
    assert done.exit_code == 2
    assert "unknown method 'theirs'" in done.stderr


def test_a_sink_of_a_file_gets_the_rows_and_the_result() -> None:
    options = ["--sink", "log", "--sink-option", "log.indent=2"]
    done = fg("train", *FLAGS, *PLUGIN, *options, "--out", "run", "--json")
    assert done.exit_code == 0
    text = Path("run/log.json").read_text()
    rows, result = json.loads(text)
    assert result == json.loads(done.stdout)
    assert rows == [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert text.startswith("[\n  [\n    {\n")


def test_a_sink_that_fails_is_a_warning_and_json_stays_json() -> None:
    options = ["--sink", "log", "--sink-option", "log.fail=true"]
    done = fg("train", *FLAGS, *PLUGIN, *options, "--out", "run", "--json", "--quiet")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["steps"] == 12
    assert "fg: warning: metric sink log of mine_in_a_file.py failed" in done.stderr
    assert "row raised OSError: no space" in done.stderr.splitlines()[-1]


BAD = {
    "unknown sink": ("--sink lag", "--sink: unknown metric sink 'lag'; did you mean 'log'? known metric sinks: log"),
    "no sink": ("--sink-option log.indent=1", "--sink-option is log.indent; it must be NAME.KEY=VALUE"),
    "no name": ("--sink log --sink-option indent=1", "--sink-option is indent; it must be NAME.KEY=VALUE"),
    "unknown option": (
        "--sink log --sink-option log.indnt=1",
        "--sink-option: unknown option 'indnt' of metric sink log; did you mean 'indent'?",
    ),
    "bad value": ("--sink log --sink-option log.indent=-1", "--sink-option log.indent is -1; it must be at least 0"),
    "no assignment": ("--sink log --sink-option log.indent", "--sink-option is 'log.indent'; it must be key=value"),
    "no file": ("--plugin nowhere.py", "--plugin nowhere.py cannot be read: No such file or directory"),
}


@pytest.mark.parametrize(("flags", "said"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line_exit_2_and_nothing_written(flags: str, said: str) -> None:
    done = fg("train", *FLAGS, *PLUGIN, *flags.split(), "--out", "run")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"fg: {said}")
    assert done.stderr.count("\n") == 1
    assert not Path("run").exists()


def test_the_whole_command_finds_a_model_of_ones_own_too(workplace: Path, monkeypatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    library = workplace / "my nets"
    (library / "own_nets").mkdir(parents=True)
    own = "from torch import nn\n\n\ndef make(input_shape, classes, generator):\n"
    (library / "own_nets" / "__init__.py").write_text(f"{own}    return nn.Linear(input_shape[0], classes)\n")
    flags = [flag for flag in FLAGS if flag not in ("--width", "--depth", "8", "2")]
    with monkeypatch.context() as patch:
        patch.syspath_prepend(library)
        model = ["--model", "own_nets:make", "--method", "theirs"]
        assert fg("train", *flags, *PLUGIN, *model, "--out", "run", "--quiet").exit_code == 0
    monkeypatch.delitem(sys.modules, "own_nets")
    load_registry.cache_clear()
    done = fg("train", "--resume", "run", "--epochs", "5")
    assert done.exit_code == 2
    assert f"once more: PYTHONPATH='{library}' fgcli train --resume run --epochs 5 --plugin " in done.stderr
    recorded = json.loads(Path("run/environment.json").read_text())
    recorded["code"] |= {"": {"file": "/"}, ".x": {"file": ""}, "a.b.c": {"file": "/"}, "odd": 3}
    Path("run/environment.json").write_text(json.dumps(recorded))
    assert fg("train", "--resume", "run", "--epochs", "5").exit_code == 2


def test_a_run_without_its_plugin_file_says_the_whole_command(workplace: Path, monkeypatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert fg("train", *FLAGS, *PLUGIN, "--method", "theirs", "--out", "run", "--quiet").exit_code == 0
    load_registry.cache_clear()
    file = workplace / "mine_in_a_file.py"
    missing = f"run was begun with the plugin {file}, which is not in use: give it once more: fgcli"
    done = fg("train", "--resume", "run", "--epochs", "5")
    assert done.exit_code == 2
    assert done.stderr.startswith("fg: run/recipe.yaml:1:9: unknown method 'theirs'")
    assert done.stderr.endswith(f"; {missing} train --resume run --epochs 5 --plugin {file}\n")
    command = done.stderr.split(" fgcli ")[-1].split()
    file.write_text(file.read_text() + "\n")
    assert f"{file} (which has changed since), which" in fg("train", "--resume", "run", "--epochs", "5").stderr
    assert fg(*command, "--quiet").exit_code == 0
    file.unlink()
    assert f"{file} (which is not there any more)," in fg("analyze-overlap", "run").stderr


def test_what_stands_beside_a_plugin_file_is_found_and_hides_nothing(workplace: Path, monkeypatch) -> None:
    """As with `python mine.py`, but last on the path: a json.py beside it is not what `import json` gives."""
    folder = workplace / "there"
    folder.mkdir()
    Path("mine_in_a_file.py").rename(folder / "mine_in_a_file.py")
    text = (folder / "mine_in_a_file.py").read_text()
    (folder / "mine_in_a_file.py").write_text(f"import beside_it\nimport colorsys\n{text}")
    (folder / "beside_it.py").write_text("x = 1\n")
    (folder / "colorsys.py").write_text("1 / 0\n")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    done = fg("train", *FLAGS, "--plugin", "there/mine_in_a_file.py", "--method", "theirs", "--out", "run", "--quiet")
    monkeypatch.delitem(sys.modules, "beside_it")
    assert (done.exit_code, done.stderr) == (0, "")
    assert json.loads(Path("run/environment.json").read_text())["code"]["beside_it"]["file"] == str(
        folder / "beside_it.py"
    )
