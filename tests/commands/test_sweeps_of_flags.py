"""`fgcli train --seeds`, `fgcli tune` and `fgcli compare`: sweeps without a recipe's file."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from tiny_runs import FLAGS, fg

from fgcli import Outcome, Trial
from fgcli.bench.run import Job
from fgcli.commands.bench_run import parse_seeds
from fgcli.commands.compare import _split
from fgcli.errors import UsageError
from fgcli.extend.registry import load_registry
from fgcli.report.statistics import mean_interval
from fgcli.runs.quantities import QUANTITIES
from fgcli.runs.sweep_directory import SweepDirectory
from fgcli.sweep.plan import plan, plan_tuning
from fgcli.sweep.read import read_sweep
from fgcli.training.dry_run import findings

SHORT = [*FLAGS, "--epochs", "1"]
WITHOUT_LR = [flag for flag in SHORT if flag not in ("--lr", "0.01")]


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials take no processes of their own, which would each import torch."""

    def run(self: object, trials: Iterable[Trial]) -> Iterator[Outcome]:
        for trial in trials:
            done = fg(*trial.command[3:])
            trial.log.write_text(done.output)
            yield Outcome(trial, done.exit_code)

    def measure(mode: str, jobs: Sequence[Job]) -> list[str]:
        assert mode == "check"
        return findings({job.name: job.recipe for job in jobs}, load_registry(jobs[0].plugins))

    monkeypatch.setattr("fgcli.bench.local.LocalExecutor.run", run)
    monkeypatch.setattr("fgcli.bench.measuring.measure", measure)


def result(folder: str, trial: str) -> dict[str, float]:
    return json.loads((Path(folder) / "trials" / trial / "result.json").read_text())


def test_a_run_for_each_seed_and_a_table_with_intervals() -> None:
    done = fg("train", *SHORT, "--seeds", "0-1", "--method", "wperp", "--k", "3", "--out", "many")
    assert done.exit_code == 0, done.output
    found = [result("many", f"wperp-seed{seed}") for seed in (0, 1)]
    assert [(one["seed"], one["k"], one["width"], one["threads"]) for one in found] == [(0, 3, 8, 1), (1, 3, 8, 1)]
    interval = mean_interval([one["test_accuracy"] for one in found])
    shown = done.stdout.partition("At the end of training")[2]
    assert interval.text(QUANTITIES["test_accuracy"]) in shown
    assert "as two are too few for an interval" in shown
    single = fg("train", *SHORT, "--seed", "1", "--method", "wperp", "--k", "3", "--json", "--out", "one")
    alone = json.loads(single.stdout)
    assert alone["test_loss"] == found[1]["test_loss"]


METHOD = """
from fgcli import Entry, GuessOptions, hookimpl
from fgcli.methods.transpose import Transpose

FG_CONTRACT = 2


@hookimpl
def fg_guess_methods():
    return [Entry("theirs", "of_a_sweep:Transpose", "W̃ᵀ.", GuessOptions)]
"""


def test_a_sweep_without_its_plugin_file_says_the_whole_command(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    file = workplace / "of_a_sweep.py"
    file.write_text(METHOD, encoding="utf-8")
    begun = fg("train", *SHORT, "--seeds", "0", "--method", "theirs", "--plugin", file.name, "--out", "many", "--quiet")
    assert begun.exit_code == 0, begun.output
    load_registry.cache_clear()
    on = ["bench", "many/sweep.yaml", "--out", "many", "--seeds", "0,1"]
    done = fg(*on)
    assert done.exit_code == 2
    mend = shlex.join(["fgcli", *on, "--plugin", str(file)])
    missing = f"many/trials/theirs-seed0 was begun with the plugin {file}, which is not in use: give it once more"
    assert "unknown method 'theirs'" in done.stderr
    assert done.stderr.endswith(f"; {missing}: {mend}\n")
    assert fg(*shlex.split(mend)[1:]).exit_code == 0
    assert result("many", "theirs-seed1")["seed"] == 1
    load_registry.cache_clear()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--seeds 0-1 --seed 3", "--seed and --seeds are both given; give one of them"),
        ("--seeds 0-1 --json", "--seeds and --json are both given; leave out --json, or give one --seed"),
        ("--seeds 0-1 --resume run", "--seeds and --resume are both given; leave out --resume"),
        ("--seeds 4-0", "--seeds is '4-0'; it must be whole numbers from 0, each once: 0,1,2 or 0-4"),
        ("--seeds 0,0-2", "--seeds is '0,0-2'; it must be whole numbers from 0, each once"),
        ("--seeds x", "--seeds is 'x'; it must be whole numbers from 0"),
        ("--seeds 0-1 --width 0", "--width is 0; it must be at least 1"),
        ("--seeds 0-1 --threads 999", "fg: a trial of 999 threads needs 999 cores, and this machine has "),
        ("--seeds 0-99999", "the flags: the grid has "),
    ],
)
def test_seeds_that_cannot_be_are_refused_and_nothing_is_written(flags: str, said: str) -> None:
    done = fg("train", *flags.split(), "--out", "many")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert not Path("many").exists()


def test_seeds_are_numbers_and_ranges() -> None:
    assert parse_seeds("0-2,7") == [0, 1, 2, 7]
    assert parse_seeds(" 3 , 1") == [3, 1]
    for bad in ("", "1-", "-1", "1-2-3", "1.5", "²"):
        with pytest.raises(UsageError, match="--seeds is "):
            parse_seeds(bad)


def test_tune_prints_the_command_that_trains_with_the_best() -> None:
    own = ["--method", "backprop", "--bias", "--model-option", "activation=tanh"]
    done = fg("tune", *WITHOUT_LR, *own, "--lrs", "1e-9,1e-2", "--out", "search")
    assert done.exit_code == 0, done.output
    assert re.search(r"│ 1e-09 +│ \d\.\d{4} +│", done.stdout)
    assert done.stdout.count("at the edge of what was tried: a wider search may find a better one") == 1
    printed = shlex.split(done.stdout.rpartition("go on with: ")[2])
    assert printed[:2] in (["fg", "train"], ["fgcli", "train"])
    assert printed[-2:] == ["--lr", "0.01"]
    assert "--bias" in printed
    assert "--model-option activation=tanh" in " ".join(printed)
    trained = fg(*printed[1:], "--json", "--out", "run", "--seed", "100")
    assert trained.exit_code == 0, trained.output
    assert trained.stdout
    by_search = json.loads(Path("search/tuning/backprop-lr0.01-seed100/result.json").read_text())
    assert json.loads(trained.stdout)["train_loss"] == by_search["train_loss"]
    assert not list(Path("search/trials").iterdir())  # nothing but the search


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--lrs 1e-3,x", "--lrs is '1e-3,x'; it must be different numbers above 0"),
        ("--lrs 1e-3,1e-3", "--lrs is '1e-3,1e-3'; it must be different numbers above 0"),
        ("--lrs -1", "--lrs is '-1'; it must be different numbers above 0"),
        ("--by loss", "--by: unknown metric 'loss'; did you mean 'test_loss'? known metrics: test_accuracy, "),
        ("--lr 1", "no such option: --lr"),
        ("--method wprep", "--method: unknown method 'wprep'; did you mean "),
    ],
)
def test_a_search_that_cannot_be_is_refused(flags: str, said: str) -> None:
    done = fg("tune", *flags.split(), "--out", "search")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert not Path("search").exists()


def test_compare_trains_and_reports_the_differences() -> None:
    own = ["--methods", "wperp:k=2,solver=krylov,backprop", "--seeds", "0,1", "--lr", "0.01"]
    done = fg("compare", *WITHOUT_LR, *own, "--out", "both", "--html", "page.html")
    assert done.exit_code == 0, done.output
    sweep, _ = read_sweep(SweepDirectory(Path("both")).sweep_file)
    assert sweep.labels() == ["wperp:k=2,solver=krylov", "backprop"]
    ours = result("both", "wperp-k-2-solver-krylov-seed1")
    assert (ours["k"], ours["options"]["solver"], ours["lr"]) == (2, "krylov", 0.01)  # pyright: ignore
    assert "wperp:k=2,solver=krylov" in done.stdout.partition("At the end of training")[2]
    assert "backprop" in done.stdout
    assert Path("page.html").read_text().startswith("<!doctype html>")


def test_compare_searches_each_methods_learning_rate_where_it_is_asked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = []
    monkeypatch.setattr("fgcli.commands.bench_run.run", planned.append)
    monkeypatch.setattr("fgcli.commands.compare.show_report", lambda *_: None)
    assert fg("compare", "--methods", "wt,backprop", "--lrs", "1e-3,1e-2", "--seeds", "0-2").exit_code == 0
    from fgcli.sweep.read import parse_sweep

    sweep = parse_sweep(planned[0].source)
    assert (len(plan(sweep)), len(plan_tuning(sweep))) == (6, 4)


def test_methods_are_split_at_commas_but_not_within_their_options() -> None:
    assert _split("a:k=1,b=2,c, d:e=x:y") == ["a:k=1,b=2", "c", "d:e=x:y"]
    assert _split("dist:a,b") == ["dist:a", "b"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--methods wperp,bakprop", "--methods: unknown method 'bakprop'; did you mean 'backprop'?"),
        ("--methods wt,wt", "fg: --methods names wt twice; each once, or with options of its own: wt:KEY"),
        ("--methods wt:kk=1,backprop", "--methods wt:kk=1: --option kk: unknown option 'kk' of method wt"),
        (
            "--methods wperp --width 8",
            "--methods wperp: --width is 8, below k, which is 10 by default; set k to at most 8 (options:",
        ),
        ("--methods ,", "--methods is ','; it must name methods: wperp,backprop"),
        ("--methods wt,backprop --baseline wperp", "--baseline: unknown method 'wperp'"),
        ("--methods wt,backprop --lr 1 --lrs 1,2", "--lr and --lrs are both given; give one of them"),
        ("--methods wt,backprop --html .", "--html is ., a folder; name a file"),
        ("--methods wt,backprop --html notes", "--html is notes, which exists and is no page; give another name, or"),
        ("", "missing option '--methods'"),
    ],
)
def test_a_comparison_that_cannot_be_is_refused(flags: str, said: str) -> None:
    Path("notes").write_text("of mine")
    done = fg("compare", *flags.split(), "--out", "both")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert said in done.stderr
    assert not Path("both").exists()


def test_a_folder_that_cannot_be_made_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "runs")

    monkeypatch.setattr(Path, "mkdir", denied)
    done = fg("compare", "--methods", "wt,backprop", *WITHOUT_LR, "--out", "runs/both")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "fg: cannot make --out runs/both: runs: Permission denied\n"


@pytest.mark.parametrize("command", ["train --seeds 0-1", "tune --lrs 0.1,0.2", "compare --methods wt,backprop"])
def test_what_would_stop_every_trial_is_said_before_any_is_run(command: str) -> None:
    done = fg(*command.split(), *WITHOUT_LR, "--batch-size", "5000", "--out", "none")
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert ": --batch-size is 5000; it must be at most 80, the training samples of mnist1d" in done.stderr
    assert not Path("none").exists()
