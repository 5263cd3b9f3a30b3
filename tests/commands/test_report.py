import json
import subprocess
import sys
from pathlib import Path

import pytest
from fake_runs import SWEEP, accuracy, fake_run, fake_sweep
from rich.console import Console
from tiny_runs import fg, run

from fgcli.commands import report_watch
from fgcli.report.compose import compose


@pytest.fixture
def folder(workplace: Path) -> Path:
    return fake_sweep(workplace / "sweep", SWEEP, accuracy)


@pytest.mark.parametrize("flag", ["--markdown", "--latex", "--csv", "--json"])
def test_a_format_is_all_that_standard_output_has_and_the_same_each_time(folder, flag):
    first, second = fg("report", "sweep", flag), fg("report", "sweep", flag, "--html", "page.html")
    assert first.exit_code == second.exit_code == 0
    assert first.stdout == second.stdout
    assert first.stderr == ""
    assert second.stderr == "page written to page.html\n"
    if flag == "--json":
        assert json.loads(first.stdout)["schema"] == 1


def test_files_are_written_and_the_terminal_says_so(folder):
    done = fg("report", "sweep", "--html", "page.html", "--figures", "some/figures")
    assert done.exit_code == 0, done.output
    assert done.stdout.endswith("page written to page.html\n2 figures written to some/figures\n")
    assert "0.620 ± 0.050" in done.stdout
    assert len(list(Path("some/figures").iterdir())) == 6
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_nothing_is_printed_where_the_figures_cannot_be_written(folder, monkeypatch):
    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", denied)
    done = fg("report", "sweep", "--figures", "figures")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "fg: cannot make --figures figures: Permission denied\n"


def test_a_baseline_of_the_users_choice(folder):
    assert "-0.060 ± 0.025, p 0.018" in fg("report", "sweep", "--baseline", "W̃⊥", "--markdown").stdout
    done = fg("report", "sweep", "--baseline", "W̃")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("fg: --baseline: unknown label 'W̃'; did you mean 'W̃")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("absent", "absent does not exist; give run directories, sweep directories, or folders of them"),
        ("empty", "empty holds no run and no sweep"),
        ("foreign", "nothing to report: foreign/x: no run: it has no recipe.yaml"),
        ("broken", "nothing to report: broken: broken/sweep.yaml:4:36: unknown value 'accuracy'; "),
        ("sweep --csv --json", "--csv and --json are given; standard output takes one of them"),
        ("sweep --watch --csv", "--watch shows the report in the terminal; leave out the other formats"),
        ("sweep --watch", "--watch needs a terminal; without it the report is printed once"),
        ("sweep --html empty", "--html is empty, a folder; name a file"),
        ("sweep --html absent/page.html", "cannot write --html absent/page.html: absent: No such file or directory"),
        ("sweep --figures sweep/sweep.yaml", "--figures is sweep/sweep.yaml, a file; name a folder"),
    ],
)
def test_bad_input(folder, workplace, arguments, said):
    (workplace / "empty").mkdir()
    (workplace / "foreign" / "x").mkdir(parents=True)
    (workplace / "broken").mkdir()
    (workplace / "broken" / "sweep.yaml").write_text(
        "grid:\n  methods: [wt]\nviews:\n  - {kind: table, title: T, value: accuracy}\n"
    )
    before = sorted(workplace.rglob("*"))
    done = fg("report", *arguments.split())
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fg: {said}")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(workplace.rglob("*")) == before


def test_a_real_run_is_reported_without_torch(workplace):
    result = run(workplace / "runs" / "real", diagnostics=["overlap"], diagnostics_every=2)
    fake_run(workplace / "runs" / "another", method="another", width=8, epochs=4)
    code = "import sys; from fgcli.app import app; app(['report', 'runs', '--json'], standalone_mode=False)"
    code += "; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (section,) = json.loads(done.stdout)["sections"]
    numbers = {record["label"]: record["mean"] for record in section["items"][0]["records"][:1]}
    found = [record for record in section["items"][0]["records"] if record["value"] == "train_loss"]
    assert numbers
    assert not found
    accuracies = [r for r in section["items"][0]["records"] if r["runs"] == ["runs/real"]]
    assert accuracies[0]["mean"] == result["train_accuracy"]
    assert section["items"][-1]["title"] == "Overlap of the gradient with the top-k space"


def test_a_closed_pipe_ends_it_quietly(folder):
    command = f"{sys.executable} -m fgcli.app report sweep sweep --csv | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("section,item,panel,")
    assert done.stderr == ""


class Watched:
    """`keep_watching` in a terminal that is a list of lines, with steps in place of waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.console = Console(force_terminal=True, width=100, height=40, record=True, color_system=None)
        monkeypatch.setattr(report_watch, "Console", lambda: self.console)

    def run(self, path: Path, *steps: object) -> str:
        waiting = iter(steps)

        def pause(seconds: float) -> None:
            step = next(waiting)
            if isinstance(step, BaseException):
                raise step
            assert callable(step)
            step()

        report_watch.keep_watching(lambda: compose([path]), pause)
        return self.console.export_text()


def test_watching_ends_when_all_is_done(folder, monkeypatch):
    trial = folder / "trials" / "wt-width64-seed0"
    held = trial.rename(folder / "held")
    shown = Watched(monkeypatch).run(folder, lambda: None, lambda: held.rename(trial))
    assert "11 finished, 1 not run yet" in shown
    assert shown.rstrip().endswith("Mean over seeds ± 95 % t-interval.")
    assert "0.310 ± 0.025" in shown


def test_watching_ends_with_ctrl_c_and_leaves_the_report(folder, monkeypatch):
    fake_run(folder / "trials" / "new")
    (folder / "trials" / "wt-width64-seed0" / "result.json").unlink()
    shown = Watched(monkeypatch).run(folder, KeyboardInterrupt())
    assert "11 finished, 1 unfinished" in shown
    assert "wt-width64-seed0" in shown
    assert "trials/new: not among the trials of sweep.yaml" in shown


def test_a_file_that_is_no_page_is_not_written_over(folder: Path) -> None:
    recipe = folder / "sweep.yaml"
    before = recipe.read_bytes()
    done = fg("report", "sweep", "--html", str(recipe))
    assert done.exit_code == 2
    assert done.stderr == f"fg: --html is {recipe}, which exists and is no page; give another name, or remove it\n"
    assert recipe.read_bytes() == before
    for _ in range(2):
        assert fg("report", "sweep", "--html", "page.html").exit_code == 0
